from cankd_mm.__main__ import compare, main

if __name__ == '__main__':
    main(compare)
