from cankd_mm.cli import compare, main

if __name__ == '__main__':
    main(compare)
