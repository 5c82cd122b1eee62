from cankd_mm.__main__ import main, reproduce

if __name__ == '__main__':
    main(reproduce)
