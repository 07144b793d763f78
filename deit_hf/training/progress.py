"""The console of a training: one bar on a terminal, and a line for each evaluation.

Replaces the progress bar and the dictionaries of transformers. The texts of accuracies are in evaluation/.
"""

import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..evaluation.accuracy_text import accuracy_line, accuracy_table
from ..evaluation.metric_names import HEADS, SHARES, measured_sets
from .schedule import current_learning_rate

TERMS = {"loss_cls": "labels", "loss_distillation": "teacher"}
NUM_LINES = 20  # lines of a run between evaluations, about
LINE_EVERY = 60.0  # seconds, of `ViewProgress`
LONGEST_SILENCE = 600.0  # seconds until a logged loss is printed in any case
BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{images_per_second}{postfix}]"
IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


class Progress(ProgressCallback, PrinterCallback):
    """Draws a bar on a terminal and prints lines: each evaluation, and some losses in between.

    `trainer.remove_callback` finds it under both names that transformers uses for its own. Only the first process
    draws and prints.
    """

    def __init__(self, eval_parts: Callable[[], Collection[str]], recent_means: Callable[[], dict[str, float]]):
        """Takes functions that are called during a training.

        Args:
            eval_parts: returns the names of the evaluation sets; none if there is only one.
            recent_means: returns the loss terms since they were last logged. All processes call it together.
        """
        super().__init__()
        self.eval_parts, self.recent_means = eval_parts, recent_means
        self._in_training = False
        self._bar: _Bar | None = None
        self._evaluation_bar: tqdm | None = None

    def close(self) -> None:
        """Ends a training, finished or not, and removes its bars from the terminal."""
        self._in_training = False
        self.close_evaluation()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close_evaluation(self) -> None:
        """Removes the bar of an evaluation, finished or not."""
        if self._evaluation_bar is not None:
            self._evaluation_bar.close()
            self._evaluation_bar = None

    # ---- training ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()
        self._in_training = True
        self._rate: float | None = None
        self._metrics: dict[str, Any] = {}  # of the evaluation in progress
        self._label = ""  # of logged losses that are not printed yet
        logged = [entry for entry in state.log_history if "loss" in entry]  # before a resume
        self._logged: dict[str, Any] = logged[-1] if logged else {}
        self._begin, self._line_step, self._line_time = state.global_step, -1, time.monotonic()
        if state.is_world_process_zero and _draws(args):
            self._bar = _Bar(
                desc=_epoch_in_progress(args, state), total=state.max_steps, initial=state.global_step, leave=False,
                dynamic_ncols=True, bar_format=BAR,
            )  # fmt: skip
            self._bar.images_per_step = args.global_batch_size
            self._show_loss()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.set_description_str(_epoch_in_progress(args, state))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._print_logged(args, state)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self._rate = current_learning_rate(optimizer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not self._in_training:
            return
        if "loss" in logs:
            self._logged, self._label = {**logs, "step": state.global_step}, _position(args, state)
            self._logged |= {} if self._rate is None else {"learning_rate": self._rate}
            self._show_loss()
        elif "train_runtime" in logs:
            if not self._label and self._line_step < state.global_step > self._begin:
                self._logged = {**self._terms(state), "step": state.global_step}
                self._label = _position(args, state)
            self._print_logged(args, state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._print_logged(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def _show_loss(self) -> None:
        if self._bar is not None and "loss" in self._logged:
            self._bar.set_postfix_str(f"loss {number(self._logged['loss'])}", refresh=False)

    def _terms(self, state: Any) -> dict[str, Any]:
        """The loss terms and the learning rate of the last steps: as logged in this step, or since the last report."""
        is_logged = self._logged.get("step") == state.global_step
        terms = self._logged if is_logged else self.recent_means() or self._logged
        return terms if self._rate is None else {**terms, "learning_rate": self._rate}

    def _print_logged(self, args: Any, state: Any) -> None:
        """Prints logged losses that no evaluation has printed, unless there were many such lines."""
        if not self._label:
            return
        label, self._label = self._label, ""
        step = self._logged.get("step", state.global_step)
        is_due = step - self._line_step >= state.max_steps / NUM_LINES or step == state.max_steps
        is_due |= self._line_step < 0 or time.monotonic() - self._line_time > LONGEST_SILENCE
        if is_due and (self._bar is None or args.eval_strategy == "no"):
            self._print(state, [label, *_terms_in_words(self._logged)])

    def _print(self, state: Any, words: list[str], mark: str = "") -> None:
        now = time.monotonic()
        seconds, self._line_time, self._line_step = now - self._line_time, now, state.global_step
        if state.is_world_process_zero:
            say("  ".join(filter(None, [*words, duration(seconds), mark])))

    # ---- evaluation ----

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not _draws(args):
            return
        if self._evaluation_bar is None:
            self._evaluation_bar = tqdm(
                desc="evaluation", total=len(eval_dataloader), leave=False, dynamic_ncols=True, unit=" batches"
            )
        self._evaluation_bar.update(1)
        if self._evaluation_bar.n >= len(eval_dataloader):  # averaged weights follow, without an event
            self.close_evaluation()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self.close_evaluation()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Prints a line in a training, after the last of several evaluation sets."""
        self.close_evaluation()
        if not self._in_training:
            return
        self._metrics |= metrics
        parts = [part for part in self.eval_parts() if f"eval_{part}_loss" in self._metrics]
        if parts and len(parts) < len(self.eval_parts()):
            return
        measured, self._metrics, self._label = self._metrics, {}, ""
        terms = self._terms(state) if state.global_step > self._begin else {}
        best = _best_name(args, measured)
        words = [_position(args, state), *_terms_in_words(terms, accuracy=_accuracy_in_words(measured, best))]
        is_best = state.global_step > 0 and best is not None and _is_best(args, best, state.log_history)
        self._print(state, words, "* best" if is_best else "")


class _Bar(tqdm):
    """A bar over optimizer steps that also shows the images per second."""

    images_per_step = 0

    @property
    def format_dict(self) -> dict[str, Any]:
        facts: dict[str, Any] = super().format_dict
        elapsed, num_steps = facts["elapsed"], facts["n"] - facts["initial"]
        rate = facts["rate"] or (num_steps / elapsed if elapsed else 0)
        images = f", {rate * self.images_per_step:.3g} images/s" if rate else ""
        return {**facts, "images_per_second": images}


class ViewProgress:
    """Views that were answered or trained on: a bar on a terminal, otherwise a line a minute."""

    def __init__(self, total: int, *, draws: bool):
        is_terminal = sys.stderr.isatty() or IN_NOTEBOOK
        self.bar = tqdm(total=total, unit=" views", disable=not (draws and is_terminal), dynamic_ncols=True)
        self.total, self.done, self.says = total, 0, draws and not is_terminal
        self.start = self.said = time.monotonic()

    def begin(self, epoch: str) -> None:
        self.epoch = epoch
        self.bar.set_description_str(epoch)

    def update(self, num_views: int) -> None:
        self.done += num_views
        self.bar.update(num_views)
        now = time.monotonic()
        if self.says and now - self.said > LINE_EVERY:
            speed, self.said = self.done / (now - self.start), now
            left = duration((self.total - self.done) / speed)
            say(f"{self.epoch}  {self.done:,} of {self.total:,} views  {speed:.4g} views/s  about {left} left")

    def close(self) -> None:
        self.bar.close()


def replace_progress(callbacks: list[TrainerCallback], progress: Progress) -> None:
    """Puts `progress` in the place of transformers' own bar or printer.

    The bar of a notebook stays, and so does a callback of the user that draws or prints.

    Args:
        callbacks: of a `Trainer`, changed in place.
        progress: draws instead.
    """
    found = [index for index, each in enumerate(callbacks) if isinstance(each, ProgressCallback | PrinterCallback)]
    if not found:
        return
    *of_user, own = found
    if of_user:
        del callbacks[own]
    else:
        callbacks[own] = progress


def say(text: str) -> None:
    """Prints a text on stdout, above the bars."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()  # in order with the messages on stderr, also in a file


def _draws(args: Any) -> bool:
    return not args.disable_tqdm and (IN_NOTEBOOK or sys.stderr.isatty())


# ---- words ----


def _epoch_in_progress(args: Any, state: Any) -> str:
    if args.max_steps > 0:
        return "training "
    return f"epoch {int(state.epoch or 0) + 1}/{args.num_train_epochs:g} "


def _position(args: Any, state: Any) -> str:
    """`epoch 7/30` at the end of an epoch, otherwise `step 120/660`."""
    if args.max_steps <= 0 and state.epoch and round(state.epoch, 6).is_integer():
        return f"epoch {state.epoch:.0f}/{args.num_train_epochs:g}"
    return f"step {state.global_step}/{state.max_steps}"


def _terms_in_words(terms: Mapping[str, Any], *, accuracy: str = "") -> list[str]:
    words = []
    if "loss" in terms:
        both = [f"{word} {number(terms[name])}" for name, word in TERMS.items() if name in terms]
        words.append(f"loss {number(terms['loss'])}" + (f" ({', '.join(both)})" if len(both) > 1 else ""))
    if "teacher_agreement" in terms:
        words.append(f"agreement {100 * terms['teacher_agreement']:.0f} %")
    words.append(accuracy)
    if "learning_rate" in terms:
        words.append(f"lr {_scientific(terms['learning_rate'])}")
    if "data_wait" in terms:
        words.append(f"data wait {100 * terms['data_wait']:.0f} %")
    return words


def _accuracy_in_words(metrics: Mapping[str, Any], best: str | None) -> str:
    """Top-1 of all sets and heads, and the metric that chooses the best checkpoint, if that is another one."""
    words = [accuracy_line(metrics)]
    if best is not None and "top1" not in best:
        shares = [name for name in SHARES if best.endswith((name, *(f"{name}_{head}" for head in HEADS)))]
        value = f"{best.removeprefix('eval_').replace('_', ' ')} {number(metrics[best])}"
        words.append(accuracy_line(metrics, shares[0]) if shares else value.replace("loss", "evaluation loss"))
    elif not words[0]:
        words = [f"evaluation loss {number(value)}" for name, value in metrics.items() if name.endswith("_loss")]
    return "  ".join(filter(None, words))


def _best_name(args: Any, metrics: Mapping[str, Any]) -> str | None:
    """The metric that decides which evaluation is the best: the one that was chosen, or top-1 of the first set."""
    if args.metric_for_best_model is not None:
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        return name if name in metrics else None
    sets = [measured for measured in measured_sets(metrics) if measured.prefix == "eval"]
    names = [f"{sets[0].key}_top1{head}" for head in ("", "_average")] if sets else []
    return next((name for name in names if name in metrics), None)


def _is_best(args: Any, name: str, log_history: list[dict[str, Any]]) -> bool:
    """Whether the last value of a metric is better than all earlier ones of the training."""
    *earlier, last = [entry[name] for entry in log_history if name in entry and entry["step"] > 0]
    if args.metric_for_best_model is not None and not args.greater_is_better:
        return all(last < value for value in earlier)
    return all(last > value for value in earlier)


def results_in_words(metrics: Mapping[str, Any], state: Any, output_dir: str) -> list[str]:
    """The end of a run in a few lines: time and speed, accuracies, and where the model is.

    Args:
        metrics: of the training and of the evaluations after it.
        state: of the trainer.
        output_dir: folder of the run.
    """
    facts = [f"{state.global_step} steps"]
    if "train_samples_per_second" in metrics:
        resumed_at = metrics["train_runtime_since_step"]
        since = f" since the resume at step {resumed_at}" if resumed_at else ""
        facts += [f"{duration(metrics['train_runtime'])}{since}, {metrics['train_samples_per_second']:.3g} images/s"]
    if "train_data_wait" in metrics:
        facts.append(f"waited for data {100 * metrics['train_data_wait']:.0f} % of the time")
    skipped = {"steps skipped": "train_bad_steps", "images that cannot be decoded": "train_bad_images"}
    facts += [f"{words}: {metrics[name]}" for words, name in skipped.items() if metrics.get(name)]
    losses = [f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in metrics if name.endswith("_loss")]
    measured = accuracy_table(metrics).splitlines() or losses
    return ["", f"Finished: {'; '.join(facts)}", *measured, f"The model is in {output_dir}"]


def number(value: float) -> str:
    """Formats a loss with two decimals, or two digits if it is small."""
    return f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"


def _scientific(value: float) -> str:
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}" if value else "0"


def duration(seconds: float) -> str:
    """Formats a duration, such as `14 s`, `2 m 05 s` or `3 h 20 m`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"
