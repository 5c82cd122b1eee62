from cankd_mm.cli import main, train

if __name__ == '__main__':
    main(train)
