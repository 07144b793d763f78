"""Where images and labels come from."""

from dataclasses import dataclass, field

from ...argument_checks import check, check_kinds

DIGITS = "digits"  # scikit-learn's


@dataclass
class DataArguments:
    """Where images and labels come from; the names are those of transformers' `run_image_classification.py`.

    Raises:
        ValueError: from the constructor, when no source is named, or two.
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, builder, local directory of parquet files or class folders (beside each other, or in "
            "train/, val/ and test/), or digits: scikit-learn's handwritten digits, which need no download."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    train_dir: str | None = field(
        default=None, metadata={"help": "Folder with one sub-folder of images, at any depth, per class."}
    )
    validation_dir: str | None = field(default=None, metadata={"help": "The same for evaluation."})
    train_split: str = field(default="train", metadata={"help": "Name of the training split."})
    eval_split: str | None = field(
        default=None,
        metadata={
            "help": "Name of the evaluation split; by default validation (also val, valid, dev or eval), else test. "
            "A test split beside it is measured once, at the end of a training (test_results.json), never to choose."
        },
    )
    image_column_name: str = field(default="image", metadata={"help": "Column that holds the images."})
    label_column_name: str = field(default="label", metadata={"help": "Column that holds the class indices or names."})
    label_file: str | None = field(
        default=None,
        metadata={
            "help": "Right labels of the evaluation images instead of the data's own: JSON with a list of class "
            "indices for each image (ImageNet-ReaL's real.json), or text with a line `name index` for each image."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split in order from its shards (parquet files, or webdataset tars, whose "
            "columns are file endings such as jpg and cls) instead of loading it; the evaluation split is loaded."
        },
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "Classes, where the label column has numbers without names."}
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Use only so many, drawn at random, the same ones every time; of a stream the first ones of each "
            "shard."
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only so many, drawn at random, the same ones every time."}
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        folders = self.train_dir is not None or self.validation_dir is not None
        if (self.dataset_name is not None) == folders:
            raise ValueError(
                f"`dataset_name` is {self.dataset_name}, `train_dir` {self.train_dir} and `validation_dir` "
                f"{self.validation_dir}; give either a dataset or folders"
            )
        if self.train_dir is not None and self.validation_dir is not None and self.eval_split == self.train_split:
            raise ValueError(
                f"`train_split` and `eval_split` are both {self.eval_split!r}, but the two folders need two names; "
                "leave both out"
            )
        if self.dataset_config_name is not None and (folders or self.dataset_name == DIGITS):
            raise ValueError(
                f"`dataset_config_name` is {self.dataset_config_name}, but only a dataset of the Hub or a directory "
                "has configurations; leave it out"
            )
        if self.streaming and (folders or self.dataset_name == DIGITS):
            raise ValueError(
                "`streaming` reads the shards of a dataset, so `dataset_name` must name one (a Hub id, or a directory "
                "of parquet files or webdataset tars); name it, or leave `streaming` out"
            )
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), lambda v: v >= 1, "1 or more")
        if self.num_labels is not None:
            check("num_labels", self.num_labels, lambda v: v >= 2, "2 or more")
