"""A Trainer that pushes a finished run in one commit, with a card and without pickles."""

from pathlib import Path
from typing import Any

from ..evaluation.metric_names import measured_sets
from ..reliability.resumable_trainer import ResumableTrainer
from .model_card import write_model_card
from .model_facts import ModelFacts, file_facts
from .push import push_or_warn
from .trainer_facts import trainer_facts


class PushingTrainer(ResumableTrainer):
    """A Trainer whose `push_to_hub` uploads all files of a run at once, when they are there, and never ends a run.

    transformers' own uploads while it trains, pickles included, and writes a card that knows no heads.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._evaluated: dict[str, Any] = {}  # data of the last evaluation, by the prefix of its metrics
        super().__init__(*args, **kwargs)

    def write_missing_files(self) -> None:
        """Writes what a push needs beside model, processor and card; nothing here."""

    def run_facts(self) -> dict[str, Any]:
        """Fields of `ModelFacts` that the run tells; nothing here."""
        return {}

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; remembers the data, for the card."""
        if description == "Evaluation":
            self._evaluated[kwargs.get("metric_key_prefix", "eval")] = dataloader.dataset
        return super().evaluation_loop(dataloader, description, *args, **kwargs)

    def create_model_card(self, **facts: Any) -> None:
        """Writes README.md from the run and what was measured of these weights; an edited one stays.

        Args:
            facts: fields of `deit_hf.hub.model_facts.ModelFacts` that are known better, such as `license`.
        """
        if not self.is_world_process_zero():
            return
        directory = Path(self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        source = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).name_or_path
        is_trained = self.state.global_step > 0
        live = trainer_facts(self, self._evaluated)
        if is_trained or not source or Path(source).resolve() != directory.resolve():
            run = {"is_trained": is_trained, "base_model": source or None, **self.run_facts()}
        else:
            run = file_facts(directory)  # of the finished run whose model this is
        known = {"model_name": self.args.hub_model_id or directory.resolve().name, **run, **live}
        known["metrics"] = live["metrics"] if measured_sets(live["metrics"]) else run.get("metrics", {})
        write_model_card(directory, ModelFacts(**{**known, **facts}))

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **facts: Any,
    ) -> str | None:
        """Saves model, processor, recipe and card in `output_dir`, and uploads them in one commit, without pickles.

        A Hub that fails is a warning with the command that tries again: nothing is lost, no training ends.

        Args:
            commit_message: the commit's first line.
            blocking: the parent's; this push always waits.
            token: of the Hub; by default `args.hub_token`, else the one of `hf auth login` or `HF_TOKEN`.
            revision: branch; by default `args.hub_revision`, else main.
            facts: as for `create_model_card`.

        Returns:
            The commit's address, or None where there is none.
        """
        self.save_model()
        if self.is_world_process_zero():
            self.write_missing_files()
        self.create_model_card(**facts)
        return self.push_saved_files(commit_message, token=token, revision=revision)

    def push_saved_files(
        self, commit_message: str | None = None, *, token: str | None = None, revision: str | None = None
    ) -> str | None:
        """As `push_to_hub`, of the files as they are in `output_dir`; none is written."""
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
        """Does nothing: the parent would talk to the Hub before the first step, and end the run if that fails."""
