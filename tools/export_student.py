from cankd_mm.__main__ import export, main

if __name__ == '__main__':
    main(export)
