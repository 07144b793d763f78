"""The options that `--help` shows, in groups; imports no torch, so that help answers at once.

A test compares names and defaults with the option classes, and asks for a decision about each new option: a line here,
or a place in `HELP_ALL_ONLY`.
"""

from typing import Any, NamedTuple

WIDTH = 110  # characters of a line of help
COLUMN = 36  # where the descriptions begin


class Option(NamedTuple):
    """One line of `--help`.

    Attributes:
        name: of the option, without dashes.
        value: placeholder for its value.
        default: of the option's field; the help shows it unless it is None.
        text: what it does, with range or unit, and the paper's symbol.
        default_text: shown instead of a default that is None, because it depends on other options.
        flag: shown instead of the long flag.
    """

    name: str
    value: str
    default: Any
    text: str
    default_text: str = ""
    flag: str = ""

    def line(self) -> str:
        """The line as shown, at most `WIDTH` characters."""
        flag = f"  {self.flag or '--' + self.name} {self.value}"
        default = self.default_text or _in_words(self.default)
        return f"{flag:{COLUMN - 2}}  {self.text}{f' [{default}]' if default else ''}"


def _in_words(default: Any) -> str:
    """A default as it is written on a command line; empty for None."""
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


STUDENT = (
    Option(
        "model_name_or_path",
        "SOURCE",
        None,
        "weights to start from: Hub id, folder, or timm:NAME[@FILE]",
        flag="--student",
    ),
    Option("variant", "NAME", None, "DeiT to train from scratch instead; names: deit-hf models"),
    Option("image_size", "PIXELS", None, "side of the images; loaded weights are adapted to it", "the student's"),
    Option("drop_path_rate", "RATE", None, "stochastic depth, in [0, 1)", "0.1 from scratch, else as stored"),
    Option("use_distillation_token", "BOOL", None, "give loaded weights a second token", "true with a teacher"),
    Option("train_only", "REGEX", None, "parameters to train, such as classifier; others are frozen", "all"),
)
TEACHER = (
    Option(
        "teacher_model_name_or_path",
        "SOURCE",
        None,
        "Hub id, folder, timm/NAME on the Hub, or timm:NAME[@FILE]",
        flag="--teacher",
    ),
    Option("evaluate_teacher", "BOOL", True, "measure the teacher before the first step"),
    Option("teacher_cache", "DIR", None, "stored answers instead of the teacher: see deit-hf cache-teacher"),
)
DATASET = Option("dataset_name", "DATA", None, "Hub id, folder of class folders or parquet files, or digits")
TRAIN_DIR = Option("train_dir", "DIR", None, "class folders to train on, instead of DATA")
VALIDATION_DIR = Option("validation_dir", "DIR", None, "class folders to evaluate on")
EVAL_SPLIT = Option("eval_split", "NAME", None, "part to evaluate on", "validation, else test")
TRAIN_SPLIT = Option("train_split", "NAME", "train", "part to train on")
IMAGES = Option("image_column_name", "NAME", "image", "column of images")
LABELS = Option("label_column_name", "NAME", "label", "column of labels: class indices or names")
LABEL_FILE = Option("label_file", "FILE", None, "labels that replace those of the evaluation images")
MAX_TRAIN = Option("max_train_samples", "N", None, "train on at most N images, a random selection", "all")
MAX_EVAL = Option("max_eval_samples", "N", None, "evaluate at most N images, a random selection", "all")
CONFIG_NAME = Option("dataset_config_name", "NAME", None, "configuration of a dataset of the Hub")
STREAMING = Option("streaming", "BOOL", False, "read the training part from its shards while training")
HELD_OUT = Option("train_val_split", "X", None, "hold out this share of the training images to evaluate on", "none")
DATA = (DATASET, TRAIN_DIR, VALIDATION_DIR, EVAL_SPLIT, HELD_OUT, IMAGES, LABELS, MAX_TRAIN, STREAMING)
OBJECTIVE = (
    Option("distillation_type", "TYPE", "none", "none, soft or hard; soft and hard need a teacher (sec. 4)"),
    Option("distillation_weight", "λ", 0.5, "weight of the teacher's loss, in [0, 1]; labels have 1 - λ"),
    Option("distillation_temperature", "τ", 3.0, "softens both outputs in soft distillation, above 0"),
    Option("label_loss", "NAME", "cross_entropy", "cross_entropy, or binary_cross_entropy (DeiT III)"),
    Option("label_smoothing", "ε", 0.1, "in [0, 1); 0 turns it off"),
    Option("class_weighting", "NAME", "none", "none, or balanced: rare classes weigh more"),
)
AUGMENTATION = (
    Option("mixup_alpha", "ALPHA", 0.8, "parameter of mixup's Beta distribution; 0 turns it off"),
    Option("cutmix_alpha", "ALPHA", 1.0, "parameter of cutmix's Beta distribution; 0 turns it off"),
    Option("random_augment", "POLICY", "rand-m9-mstd0.5-inc1", "timm's notation, 3-augment, or none"),
    Option("random_erase_prob", "P", 0.25, "probability of random erasing, in [0, 1]"),
    Option("color_jitter", "X", 0.3, "strength; used if random_augment is none or 3-augment; 0: off"),
    Option("crop_min_scale", "X", 0.08, "smallest fraction of the area that a crop keeps, in (0, 1]"),
    Option("horizontal_flip_prob", "P", 0.5, "probability of a flip, in [0, 1]"),
    Option("repeated_augmentation", "N", 3, "views of an image in a step; 1 turns it off"),
)
OPTIMISATION = (
    Option("num_train_epochs", "N", 300.0, "epochs; with N repeats, an epoch shows about 1/N of the images"),
    Option("max_steps", "N", -1, "optimizer steps instead of epochs; -1 uses the epochs"),
    Option("per_device_train_batch_size", "N", 8, "batch size of each process"),
    Option("gradient_accumulation_steps", "N", 1, "batches per optimizer step"),
    Option("learning_rate", "X", None, "peak learning rate", "5e-4 x global batch / 512"),
    Option("lr_scheduler_type", "NAME", "cosine", "schedule after the warm-up"),
    Option("warmup_epochs", "N", None, "epochs of linear warm-up", "5"),
    Option("min_learning_rate", "X", None, "learning rate at the end", "1e-5"),
    Option("weight_decay", "X", 0.05, "of weight matrices only"),
    Option("optim", "NAME", "adamw_torch_fused", "optimizer of transformers, such as sgd"),
    Option("max_grad_norm", "X", 0.0, "norm to which gradients are clipped; 0 turns it off"),
    Option("ema_decay", "X", 0.0, "averaged weights, in [0, 1); 0 turns them off, official: 0.99996"),
    Option("seed", "N", 42, "of weights, order and augmentation"),
)
CROP_RATIO = Option("crop_ratio", "X", None, "kept share of the short side, in (0, 1]", "0.875, or 1 up to 32 pixels")
EVAL_CROP = Option("eval_crop", "NAME", None, "center, or squash: the whole image, resized", "center")
FUSION = Option("fusion", "NAME", "logit_mean", "both heads together: logit_mean or softmax_sum")
EVALUATION = (
    Option("eval_strategy", "WHEN", "no", "no, steps or epoch"),
    Option("eval_steps", "N", None, "steps between evaluations (eval_strategy steps)", "as logging_steps"),
    Option("per_device_eval_batch_size", "N", 8, "evaluation batch size of each process"),
    CROP_RATIO,
    FUSION,
    Option("metric_for_best_model", "NAME", None, "such as top1 or balanced_accuracy", "loss"),
    Option("load_best_model_at_end", "BOOL", False, "keep the checkpoint that was best in an evaluation"),
)
SAVING = (
    Option(
        "output_dir",
        "DIR",
        None,
        "folder of the run; the same command again continues there",
        "trainer_output",
        "-o, --output_dir",
    ),
    Option("overwrite_output_dir", "BOOL", False, "start again at step 0, and delete its checkpoints"),
    Option("save_strategy", "WHEN", "steps", "checkpoints: no, steps or epoch"),
    Option("save_steps", "N", 500, "steps between checkpoints (save_strategy steps)"),
    Option("save_total_limit", "N", None, "checkpoints to keep", "all"),
    Option("logging_steps", "N", 500, "steps between lines of the log"),
    Option("report_to", "NAME", "none", "experiment tracker, such as tensorboard or wandb"),
    Option("push_to_hub", "BOOL", False, "push the finished run"),
    Option("hub_model_id", "USER/NAME", None, "repository to push to", "the folder's name"),
    Option("hub_private_repo", "BOOL", None, "create it as private", "the account's setting"),
    Option("model_license", "NAME", None, "licence for the model card, such as apache-2.0", "none"),
)
MACHINE = (
    Option("bf16", "BOOL", False, "bfloat16 mixed precision; the weights stay float32"),
    Option("dataloader_num_workers", "N", 0, "processes that decode and augment images"),
    Option("gradient_checkpointing", "BOOL", None, "recompute activations: less memory, but slower", "false"),
    Option("torch_compile", "BOOL", False, "compile the student"),
    Option("verbose", "BOOL", False, "print all that transformers prints"),
)
MEASUREMENT = (
    Option("model_name_or_path", "MODEL", None, "Hub id or folder of any image classifier; same as MODEL"),
    EVAL_CROP._replace(default_text="the model's own"),
    CROP_RATIO._replace(default_text="the model's own"),
    FUSION,
)
RESULTS = (
    Option("output", "FILE", None, "JSON file for the metrics"),
    Option("per_class_file", "FILE", None, "JSON file for accuracy by class and confusion counts"),
)
BATCHES = (
    Option("batch_size", "N", 64, "batch size of each process"),
    Option("num_workers", "N", 2, "processes that decode images"),
)

TRAIN = {
    "student": STUDENT,
    "teacher": TEACHER,
    "data": DATA,
    "objective": OBJECTIVE,
    "augmentation": AUGMENTATION,
    "optimisation": OPTIMISATION,
    "evaluation": EVALUATION,
    "saving and the Hub": SAVING,
    "machine": MACHINE,
}
EVALUATE = {
    "model": MEASUREMENT,
    "data": (DATASET, VALIDATION_DIR, EVAL_SPLIT, IMAGES, LABELS, LABEL_FILE, MAX_EVAL, CONFIG_NAME),
    "results": RESULTS,
    "machine": BATCHES,
}
REPORT = {
    "models": (
        Option("models", "MODEL ...", None, "same as MODEL..."),
        Option("teacher", "SOURCE", None, "Hub id, folder, or timm:NAME[@FILE]", "that of the job or run, if local"),
    ),
    "data": (
        DATASET._replace(flag="--data"),
        *(VALIDATION_DIR, EVAL_SPLIT, IMAGES, LABELS, LABEL_FILE, MAX_EVAL, CONFIG_NAME),
    ),
    "results": (
        Option("output", "FILE", "report.html", "page, and its numbers as .json next to it; or .json alone"),
        Option("overwrite", "BOOL", False, "replace the files if they exist"),
        Option("thumbnails", "N", 12, "images in each list, 0 to 100; they are part of the page"),
    ),
    "machine": BATCHES,
}
STEPS = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
STORE = {
    "store": (
        Option("teacher_cache", "DIR", None, "folder of the store"),
        Option("top_k", "K", None, "logits to store per view (soft, above 128 classes)", "10"),
        Option("teacher_cache_epochs", "N", None, "epochs with different views; later epochs repeat them", "all"),
    ),
    "teacher": (TEACHER[0], Option("evaluate_teacher", "BOOL", True, "measure it, for the summary of trainings")),
    "data": DATA,
    "training": (
        *(each for each in STUDENT if each.name in ("model_name_or_path", "variant", "image_size")),
        *(each for each in OPTIMISATION if each.name in STEPS),
        Option("data_seed", "N", None, "of order, views and mixing; the same for all trainings", "seed"),
    ),
    "what changes views or answers": (
        Option("distillation_type", "TYPE", "none", "hard stores a class per view, soft the largest logits"),
        Option("distillation_temperature", "τ", 3.0, "of soft distillation, greater than 0"),
        *AUGMENTATION,
        next(each for each in MACHINE if each.name == "bf16"),
    ),
    "machine": tuple(each for each in MACHINE if each.name in ("dataloader_num_workers", "verbose")),
}
# Of a job, whose options have other defaults than those of a training.
DISTILL = {
    "job": (
        Option("teacher_model_name_or_path", "SOURCE", None, "Hub id, folder, or timm:NAME[@FILE]", flag="--teacher"),
        Option(
            "model_name_or_path",
            "SOURCE",
            None,
            "weights to start from",
            "facebook/deit-tiny-distilled-patch16-224",
            flag="--student",
        ),
        Option("variant", "NAME", None, "DeiT to train from scratch instead; names: deit-hf models"),
        Option("output_dir", "DIR", None, "directory of the job", "runs/NAME, after DATA", flag="-o, --output_dir"),
        Option("compare", "BOOL", False, "also train the same student without the teacher"),
        Option("teacher_epochs", "N", None, "epochs to fine-tune the teacher", "0 if it fits, else 10"),
        Option("teacher_train_only", "REGEX", "head", "what is fine-tuned: head (its classifier), all, or a pattern"),
        Option("overwrite_output_dir", "BOOL", False, "start all stages again"),
    ),
    "data": (
        TRAIN_DIR,
        VALIDATION_DIR,
        Option("train_val_split", "X", None, "share to hold out if there is no validation part", "0.15"),
        IMAGES,
        LABELS,
        MAX_TRAIN,
        Option("on_bad_image", "NAME", "error", "error, or skip: use the next good image, and list the bad one"),
    ),
    "student's training": (
        Option(
            "num_train_epochs",
            "N",
            None,
            "passes over the images",
            "30; 20 above 5,000 images; 30 to 300 from scratch",
        ),
        Option(
            "per_device_train_batch_size", "N", None, "of each process", "64, from scratch 128; fewer for few images"
        ),
        Option("learning_rate", "RATE", None, "at its peak", "1e-4; from scratch 1e-3 x sqrt(batch / 1024)"),
        Option("distillation_type", "TYPE", None, "hard or soft (sec. 4)", "hard"),
        Option("distillation_weight", "λ", 0.5, "weight of the teacher's loss, in [0, 1]; labels have 1 - λ"),
        Option("distillation_temperature", "τ", 3.0, "softens both outputs in soft distillation, above 0"),
        Option("image_size", "PIXELS", None, "side of the images; loaded weights are adapted to it", "the student's"),
        Option("class_weighting", "NAME", "none", "none, or balanced: rare classes weigh more"),
        Option("metric_for_best_model", "NAME", None, "chooses the kept epoch", "top-1 on the validation part"),
        Option("seed", "N", 42, "of weights, order and augmentation"),
    ),
    "machine and the Hub": (
        Option("bf16", "BOOL", False, "bfloat16 mixed precision; the weights stay float32"),
        Option(
            "dataloader_num_workers", "N", None, "processes that decode and augment images", "4, at most the cores"
        ),
        Option("push_to_hub", "BOOL", False, "push the finished student"),
        Option("verbose", "BOOL", False, "print all that transformers prints"),
    ),
}
CHECK = {
    "data": (DATASET, TRAIN_DIR, VALIDATION_DIR, TRAIN_SPLIT, EVAL_SPLIT, IMAGES, LABELS, LABEL_FILE),
    "selection": (MAX_TRAIN, MAX_EVAL, STREAMING, CONFIG_NAME),
}
PREPARE = {
    "images": (
        Option("short_side", "PIXELS", 384, "larger images are resized to this short side"),
        Option("quality", "N", 92, "JPEG quality of resized images, in [1, 100]"),
        Option("on_bad_image", "NAME", "error", "error, or keep: store it as it is, with its row number"),
    ),
    "files": (
        Option("output_dir", "DIR", None, "new directory; same as DIR", flag="-o, --output_dir"),
        Option("shard_size", "MB", 500, "size of a parquet file, about"),
        Option("num_workers", "N", None, "processes that resize", "the cores"),
    ),
    "data": (DATASET, TRAIN_DIR, VALIDATION_DIR, TRAIN_SPLIT, EVAL_SPLIT, HELD_OUT, IMAGES, LABELS, CONFIG_NAME),
    "selection": (MAX_TRAIN, MAX_EVAL),
}
REPRODUCE = {
    "table": (
        Option("rows", "ROW ...", None, "rows of the table", "all"),
        Option("seeds", "N ...", None, "seeds; each row is trained once per seed", "0 1 2"),
        Option("protocol", "NAME", "cpu", "cpu, or gpu: more images, a larger student, hours on a GPU"),
        Option("part", "NAME", "test", "test, or validation: measure on training images that are held out"),
        Option("show", "BOOL", False, "train nothing; write tables and plots of all results in -o"),
        Option("output_dir", "DIR", None, "models and results", "runs/reproduce", flag="-o, --output_dir"),
    ),
    "data and weights": (
        Option("dataset_name", "DATA", None, "Hub id, folder of class folders or parquet files", "the table's"),
        Option("image_column_name", "NAME", None, "column of images", "the table's"),
        LABELS,
        Option(
            "model_name_or_path", "SOURCE", None, "initial weights, for rows that start from weights", flag="--student"
        ),
        Option(
            "teacher_model_name_or_path",
            "SOURCE",
            None,
            "initial weights of the teacher of these rows",
            flag="--teacher",
        ),
    ),
    "for a trial": (
        Option("num_train_epochs", "N", None, "epochs of each run, times the factor of its row", "the table's"),
        MAX_TRAIN,
        MAX_EVAL,
    ),
    "machine": (
        Option("dataloader_num_workers", "N", None, "processes that decode and augment images", "the table's"),
        Option("per_device_eval_batch_size", "N", None, "images per step of the measurement", "the table's"),
        Option("use_cpu", "BOOL", False, "do not use the GPU"),
    ),
}

# Options of this package that only `--help-all` of a training shows.
HELP_ALL_ONLY = {"config_overrides", "eval_crop", "dataset_config_name", "train_split", "label_file", "num_labels"}
HELP_ALL_ONLY |= {"max_eval_samples", "distillation_reduction", "mixup_switch_prob", "crop_mode"}
HELP_ALL_ONLY |= {"min_steps_per_epoch", "base_learning_rate", "learning_rate_stepping", "warmup_learning_rate"}
HELP_ALL_ONLY |= {"layer_decay", "timm_optimizer", "student_mode", "on_bad_image", "ema_warmup", "num_train_samples"}
HELP_ALL_ONLY |= {"training_views", "teacher_dtype", "teacher_compile", "teacher_channels_last"}
HELP_ALL_ONLY |= {"teacher_cache_epochs", "num_streams", "shuffle_buffer_size", "max_bad_steps", "allow_changes"}
# These have one value that works, or are set for the user.
HELP_ALL_ONLY |= {"remove_unused_columns", "batch_eval_metrics", "restore_callback_states_from_checkpoint"}
HELP_ALL_ONLY |= {"logging_nan_inf_filter", "ddp_find_unused_parameters", "hub_strategy"}
