"""`python -m adts_trainer`."""

from adts_trainer.main import main

if __name__ == "__main__":
    main()
