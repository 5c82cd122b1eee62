from cankd_mm.__main__ import demo, main

if __name__ == '__main__':
    main(demo)
