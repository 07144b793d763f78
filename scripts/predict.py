"""The classes that a saved model sees in pictures: python scripts/predict.py IMAGE... --model DIR"""

from deit_hf.commands.predict import main

if __name__ == "__main__":
    main()
