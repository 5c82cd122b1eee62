from cankd_mm.__main__ import main, train

if __name__ == '__main__':
    main(train)
