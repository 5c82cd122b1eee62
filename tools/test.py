from cankd_mm.__main__ import main, test

if __name__ == '__main__':
    main(test)
