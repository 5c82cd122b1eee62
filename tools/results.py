from cankd_mm.__main__ import main, results

if __name__ == '__main__':
    main(results)
