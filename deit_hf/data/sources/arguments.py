"""Options of the data source."""

from dataclasses import dataclass, field

from ...argument_checks import check, check_kinds

DIGITS = "digits"  # scikit-learn's


@dataclass
class DataArguments:
    """Options of the data source, named as in transformers' `run_image_classification.py`.

    Raises:
        ValueError: from the constructor, if no source or two sources are named, or options contradict each other.
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, builder of the datasets library, local directory of parquet files or class folders "
            "(class folders may be in train/, val/ and test/), or digits: scikit-learn's handwritten digits, which "
            "need no download.",
            "aliases": ["--data"],
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    train_dir: str | None = field(
        default=None, metadata={"help": "Training folder: one sub-folder per class, with images at any depth."}
    )
    validation_dir: str | None = field(default=None, metadata={"help": "Evaluation folder, like `train_dir`."})
    train_split: str = field(default="train", metadata={"help": "Name of the training split."})
    eval_split: str | None = field(
        default=None,
        metadata={
            "help": "Name of the evaluation split; by default validation (also val, valid, dev or eval), else test. "
            "If there is also a test split, it is measured once, at the end of a training (test_results.json), and "
            "never used to choose a model."
        },
    )
    train_val_split: float | None = field(
        default=None,
        metadata={
            "help": "Fraction of the training images of each class to hold out for validation if the data has no "
            "validation part, in (0, 1). The content of an image decides, so the same images are held out every time."
        },
    )
    image_column_name: str = field(default="image", metadata={"help": "Column that holds the images."})
    label_column_name: str = field(default="label", metadata={"help": "Column that holds the class indices or names."})
    label_file: str | None = field(
        default=None,
        metadata={
            "help": "File with correct labels that replace those of the evaluation images: JSON with a list of class "
            "indices for each image (ImageNet-ReaL's real.json), or text with a line `name index` for each image."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split in order from its shards (parquet files, or webdataset tars, whose "
            "columns are file extensions such as jpg and cls) instead of loading it; the evaluation split is loaded."
        },
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "Number of classes, if the labels are numbers without names."}
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of training rows: a random selection, the same every time; of a stream, the first "
            "rows of each shard."
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Maximum number of evaluation rows: a random selection, the same every time."}
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        folders = self.train_dir is not None or self.validation_dir is not None
        if self.dataset_name is None and not folders:
            raise ValueError(
                "no data is named; set `dataset_name` to a Hub id, a directory or digits, or `train_dir` and "
                "`validation_dir` to folders"
            )
        if self.dataset_name is not None and folders:
            raise ValueError(
                f"`dataset_name` is {self.dataset_name}, `train_dir` {self.train_dir} and `validation_dir` "
                f"{self.validation_dir}; set either `dataset_name` or folders"
            )
        if self.train_dir is not None and self.validation_dir is not None and self.eval_split == self.train_split:
            raise ValueError(
                f"`train_split` and `eval_split` are both {self.eval_split!r}, but the two folders need different "
                "names; leave both out"
            )
        if self.dataset_config_name is not None and (folders or self.dataset_name == DIGITS):
            raise ValueError(
                f"`dataset_config_name` is {self.dataset_config_name}, but only a dataset of the Hub or a directory "
                "has configurations; leave it out"
            )
        if self.streaming and (folders or self.dataset_name == DIGITS):
            raise ValueError(
                "`streaming` reads the shards of a dataset, so `dataset_name` must name one (a Hub id, or a directory "
                "of parquet files or webdataset tars); set it, or leave `streaming` out"
            )
        self._check_train_val_split()
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), lambda v: v >= 1, "1 or more")
        if self.num_labels is not None:
            check("num_labels", self.num_labels, lambda v: v >= 2, "2 or more")

    def _check_train_val_split(self) -> None:
        if self.train_val_split is None:
            return
        check("train_val_split", self.train_val_split, lambda v: 0 < v < 1, "in (0, 1)")
        for name in ("validation_dir", "eval_split"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"`train_val_split` is {self.train_val_split} and `{name}` is {getattr(self, name)}; give one: a "
                    "share of the training images to evaluate on, or a part of the data"
                )
        if self.streaming:
            raise ValueError(
                f"`train_val_split` is {self.train_val_split}, but `streaming` reads the training split in order; "
                "name a part to evaluate on with `eval_split`"
            )
