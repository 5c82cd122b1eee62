from cankd_mm.cli import demo, main

if __name__ == '__main__':
    main(demo)
