from cankd_mm.cli import main, results

if __name__ == '__main__':
    main(results)
