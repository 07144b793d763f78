"""Speed of the input compared to timm: python scripts/benchmark.py input [--dataset_name DIR --train_split NAME]"""

from deit_hf.commands.benchmark import main

if __name__ == "__main__":
    main()
