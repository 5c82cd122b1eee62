from cankd_mm.cli import main, reproduce

if __name__ == '__main__':
    main(reproduce)
