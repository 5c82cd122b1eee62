from cankd_mm.cli import main, test

if __name__ == '__main__':
    main(test)
