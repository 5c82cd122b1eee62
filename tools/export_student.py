from cankd_mm.cli import export, main

if __name__ == '__main__':
    main(export)
