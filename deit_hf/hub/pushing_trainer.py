"""A `Trainer` that pushes a finished run in one commit, with a model card and without pickles."""

from pathlib import Path
from typing import Any

from ..evaluation.confusion import Confusion
from ..evaluation.metric_names import measured_sets
from ..model.labels import real_names
from ..reliability.resumable_trainer import ResumableTrainer
from .model_card import write_model_card
from .model_facts import ModelFacts, file_facts
from .push import push_or_warn
from .trainer_facts import metrics_of_weights, trainer_facts


class PushingTrainer(ResumableTrainer):
    """A `Trainer` whose `push_to_hub` uploads all files of a finished run in one commit; a failed push is a warning.

    In contrast, `Trainer` uploads during training, including pickles, and its card does not describe the two heads.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # of the last evaluation, by the prefix of its metrics: dataset, and confusion matrix if there is one
        self._evaluated: dict[str, Any] = {}
        self._confusions: dict[str, Confusion | None] = {}
        self._is_saving = False
        super().__init__(*args, **kwargs)

    def write_missing_files(self) -> None:
        """Writes the files of a push other than model, processor and card; none by default."""

    def run_facts(self) -> dict[str, Any]:
        """Returns the fields of `ModelFacts` that are known from the run; none by default."""
        return {}

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """Like `Trainer.evaluation_loop`, and also stores dataset and confusion matrix for the model card."""
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if description == "Evaluation":
            prefix = kwargs.get("metric_key_prefix", "eval")
            self._evaluated[prefix] = dataloader.dataset
            self._confusions[prefix] = getattr(self.compute_metrics, "confusion", None)
        return output

    def class_results(self) -> dict[str, dict[str, Any]]:
        """Returns `Confusion.report` of each set that was measured with the current weights, by its title."""
        metrics = metrics_of_weights(self.state, loads_best=self.args.load_best_model_at_end)
        config = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).config
        names = real_names(config.id2label) or [str(index) for index in range(config.num_labels)]
        found = {each.title: self._confusions.get(each.key) for each in measured_sets(metrics)}
        return {title: confusion.report(names) for title, confusion in found.items() if confusion is not None}

    def create_model_card(self, **facts: Any) -> None:
        """Writes README.md from the run and the metrics of the current weights, unless it was edited by hand.

        Args:
            facts: fields of `deit_hf.hub.model_facts.ModelFacts` to override, such as `license`.
        """
        if not self.is_world_process_zero():
            return
        directory = Path(self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        source = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).name_or_path
        is_trained = self.state.global_step > 0
        by_class = {part: report["classes"] for part, report in self.class_results().items()}
        live = trainer_facts(self, self._evaluated) | {"by_class": by_class}
        if is_trained or not source or Path(source).resolve() != directory.resolve():
            run = {"is_trained": is_trained, "base_model": source or None, **self.run_facts()}
        else:
            run = file_facts(directory)  # the model was loaded from the finished run in this directory
        known = {"model_name": self.args.hub_model_id or directory.resolve().name, **run, **live}
        if not measured_sets(live["metrics"]):
            known |= {name: run[name] for name in ("metrics", "by_class") if name in run}
        write_model_card(directory, ModelFacts(**{**known, **facts}))

    def save_model(self, output_dir: str | None = None, **options: Any) -> None:
        """Like `Trainer.save_model`, but never pushes to the Hub: other files of the run are not written yet."""
        self._is_saving = True
        try:
            super().save_model(output_dir, **options)
        finally:
            self._is_saving = False

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **facts: Any,
    ) -> str | None:
        """Saves model, processor, recipe and card in `output_dir`, and uploads them in one commit, without pickles.

        If the push fails, a warning gives the command to repeat it; the run continues and no file is lost.

        Args:
            commit_message: first line of the commit.
            blocking: ignored; the push always waits for its end.
            token: of the Hub. Default: `args.hub_token`, else that of `hf auth login` or `HF_TOKEN`.
            revision: branch. Default: `args.hub_revision`, else main.
            facts: as in `create_model_card`.

        Returns:
            The URL of the commit, or None if the push failed or this is not the main process.
        """
        if self._is_saving:  # called by `Trainer.save_model`
            return None
        self.save_model()
        if self.is_world_process_zero():
            self.write_missing_files()
        self.create_model_card(**facts)
        return self.push_saved_files(commit_message, token=token, revision=revision)

    def push_saved_files(
        self, commit_message: str | None = None, *, token: str | None = None, revision: str | None = None
    ) -> str | None:
        """Like `push_to_hub`, but uploads the existing files in `output_dir` and writes none."""
        if not self.is_world_process_zero():
            return None
        directory = Path(self.args.output_dir)
        return push_or_warn(
            directory,
            self.args.hub_model_id or directory.name,
            private=self.args.hub_private_repo,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            token=token or self.args.hub_token,
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Does nothing: `Trainer` would contact the Hub before the first step, and a failure would end the run."""
