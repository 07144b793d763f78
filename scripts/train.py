"""Same as `deit-hf train`, for launchers: accelerate launch scripts/train.py RECIPE"""

from deit_hf.commands.train import main

if __name__ == "__main__":
    main()
