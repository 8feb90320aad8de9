"""A run: an experiment, the directory that it is kept in, and which of its works are there."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm import pipeline
from llm.distributions import TEACHER, Distribution, Language, Samples, SampleSet
from llm.machine import processes
from llm.machine.processes import UsageError, say
from llm.pipeline import SELECT, TRAIN, TRUTH, Work, works
from llm.settings import config
from llm.settings.experiment import Experiment, build
from llm.settings.parts import Part
from llm.store import files, locks
from llm.store.paths import DIRECTORIES, Paths
from llm.store.resume import TrainingFiles
from llm.store.samples import SampleFiles
from llm.store.timings import timed

LAYOUT = 7  # of a run's directory: raised whenever this code cannot go on with an older one


@dataclass(frozen=True)
class Run:
    """An experiment, where it is kept, and which part of it this process does."""

    experiment: Experiment
    paths: Paths
    part: Part = Part()

    def works(self, *kinds: str, script: str | None = None) -> list[Work]:
        """Return the works of some kinds, and of a script where it is given, in order."""
        found = works(self.experiment)
        if {"sample", "score"} & {*kinds}:
            found += [work for each in self.last_epochs() for work in pipeline.evaluation(self.experiment, each)]
        return [w for w in found if w.kind in kinds and script in (None, w.script)]

    def last_epochs(self) -> list[Distribution]:
        """Return the models of which an earlier epoch is selected, at their last epoch: these are evaluated too."""
        e = self.experiment
        trained = [model for seed in range(e.num_seeds) for model in pipeline.models(e, seed)]
        last = {each: e.epochs(each.role) for each in trained}
        return [pipeline.at_last_epoch(each) for each in last if self.selected_epoch(each) not in (None, last[each])]

    def evaluated(self) -> list[Distribution]:
        """Return every trained model of every seed, at temperature 1."""
        return [each for each in pipeline.evaluated(self.experiment) if each.temperature == 1]

    def test_set(self, distribution: Distribution) -> SampleSet:
        return SampleSet(distribution, "test", self.experiment.num_test)

    # What is there. An artefact keeps the hashes of what it comes from ("bound"); what they do not fit is made again.

    @property
    def language(self) -> Language | None:
        """The ids, prompts and ends of sequence that p* sets; None where p* is not prepared, or its file is damaged."""
        path = self.paths.ground_truth / "distribution.json"
        sealed, saved = files.read_json(self.paths.ground_truth / files.SEAL), files.read_json(path)
        if sealed is None or saved is None or sealed.get(path.name) != files.sha256(path):
            return None
        return Language(saved["vocab_size"], tuple(map(tuple, saved["prompts"])), tuple(saved["eos_token_ids"]))

    def sample_files(self, sample_set: SampleSet) -> SampleFiles:
        """Return the files of a set, bound to the weights that it is drawn from."""
        weights = self.find_weights(sample_set.distribution)
        bound = {"set": str(sample_set), "weights": files.seal_hash(weights) if weights else None}
        size = self.experiment.shard_size
        return SampleFiles(self.paths.samples(sample_set), sample_set.num_sequences, size, bound)

    def samples(self, sample_set: SampleSet, at_most: int | None = None) -> Samples:
        """Return a complete set, mapped, or its first sequences in memory; verified.

        UsageError naming what makes a set that is not complete.
        """
        self.need_samples([sample_set])
        return self.sample_files(sample_set).read(at_most)

    def need_samples(self, sets: Iterable[SampleSet]) -> None:
        """Raise UsageError where one of some sets is not complete, naming the script that makes it. Needs no torch."""
        for each in dict.fromkeys(sets):
            found = self.sample_files(each)
            if self.language is None or found.manifest() is None:
                script = next(work.script for work in self.works("sample") if work.data == each)
                raise UsageError(f"{found.directory} is not complete: run bash {script} first")

    def find_weights(self, distribution: Distribution) -> Path | None:
        """Return the directory of a distribution's weights: p* or another model as kept, or a checkpoint.

        None where there is none yet.
        """
        if (given := pipeline.given(self.experiment, distribution)) is not None:
            kept = self.paths.kept(given.by)
            return kept if kept.is_dir() else None
        if distribution.seed is None:
            return self.paths.ground_truth
        epoch = self.epoch(distribution)
        return None if epoch is None else self.paths.checkpoint(pipeline.trained_as(distribution), epoch)

    def weights(self, distribution: Distribution) -> Path:
        """Return `find_weights`; UsageError where no checkpoint is selected."""
        found = self.find_weights(distribution)
        if found is None:
            model = distribution.at(1.0)
            if given := pipeline.given(self.experiment, model):
                raise UsageError(f"{model} is not kept yet: run bash {given.script} first")
            script = TRAIN if model.model == TEACHER else SELECT
            raise UsageError(f"no checkpoint of {model} is selected: run bash {script} first")
        return found

    def selection_bound(self, model: Distribution) -> dict[str, Any]:
        """Return what a selection comes from: the hashes of all checkpoints, and of the validation set's manifest."""
        epochs = range(1, self.experiment.epochs(model.role) + 1)
        validation = self._manifest_hash(SampleSet(TRUTH, "validation", self.experiment.num_validation))
        return {
            "checkpoints": [files.seal_hash(self.paths.checkpoint(model, epoch)) for epoch in epochs],
            "validation": validation,
        }

    def selection(self, model: Distribution) -> dict[str, Any] | None:
        """Return the record of a model's selection; None where there is none, or it is of other checkpoints."""
        model = model.at(1.0)
        return files.read_record(
            self.paths.selection(model), model=model.model, seed=model.seed, bound=self.selection_bound(model)
        )

    def selected_epoch(self, model: Distribution) -> int | None:
        """Return the epoch of lowest validation perplexity; None before that has been measured."""
        selection = self.selection(model)
        return selection["best_epoch"] if selection else None

    def epoch(self, distribution: Distribution) -> int | None:
        """Return the epoch of a model's weights: the selected one, or the last. None before selection."""
        trained = pipeline.trained_as(distribution)
        selected = self.selected_epoch(trained)
        return selected if selected is None or trained == distribution else self.experiment.epochs(trained.role)

    def training_bound(self, work: Work) -> dict[str, Any]:
        """Return what a training comes from, as hashes.

        These are of the manifest of the training set, of the teacher's weights if the loss has its distributions, and
        of the weights that the training starts from if they are a checkpoint's.
        """
        bound = {}
        if work.student is not None:
            weights = self.find_weights(Distribution(TEACHER, work.by.seed))
            bound["teacher"] = files.seal_hash(weights) if weights else None
        if (start := self.start(work.by)) is not None:
            bound["start"] = files.seal_hash(start) if start.is_dir() else None
        return bound | ({"set": str(work.data), "manifest": self._manifest_hash(work.data)} if work.data else {})

    def start(self, model: Distribution) -> Path | None:
        """Return the directory of the weights that a model's training starts from; None where they are random ones."""
        start = Distribution(model.role)
        return self.paths.kept(start) if pipeline.given(self.experiment, start) else None

    def training(self, work: Work) -> dict[str, Any] | None:
        """Return the record of a complete training; None where there is none, or of other data."""
        return files.read_record(
            self.paths.training(work.by), model=work.by.model, seed=work.by.seed, bound=self.training_bound(work)
        )

    def is_trained(self, work: Work) -> bool:
        """Return whether a training is complete and its checkpoints are as written; say which is not."""
        if self.training(work) is None:
            return False
        if bad := TrainingFiles(self.paths.checkpoints(work.by)).damaged_epoch(work.epochs):
            say(f"{bad} is missing or damaged: training {work.by} again")
            return False
        return True

    def _manifest_hash(self, sample_set: SampleSet) -> str | None:
        """Return the hash of a set's manifest; None where the set is not complete, or drawn from other weights."""
        found = self.sample_files(sample_set)
        return files.sha256(found.manifest_path) if found.manifest() else None

    def product(self, work: Work) -> tuple[Path, Callable[[], object]]:
        """Return what a work makes, a directory or the file of a selection, and what tells whether it is complete.

        That looks at the mark of completion alone, and not at what is marked.
        """
        match work.kind:
            case "prepare":
                return self.paths.ground_truth, lambda: self.language
            case "sample":
                return self.paths.samples(work.data), lambda: self.sample_files(work.data).manifest()
            case "train":
                return self.paths.checkpoints(work.by), lambda: self.training(work)
            case "select":
                return self.paths.selection(work.by), lambda: self.selection(work.by)
            case "keep":
                return (kept := self.paths.kept(work.by)), kept.is_dir
        return (scores := self.paths.scores(work.data, work.by)), scores.is_dir

    def path(self, work: Work) -> Path:
        """Return what a work makes: a directory, or the file of a selection."""
        return self.product(work)[0]

    def is_marked(self, work: Work) -> bool:
        """Return whether a work's mark of completion is there, without a look at what it marks."""
        return bool(self.product(work)[1]())

    # One experiment a directory.

    def refuse_other_settings(self) -> None:
        """Raise UsageError where a work that is there was made with another value of a field that it depends on."""
        before = self._made_with()
        if before is None:
            return
        differing = pipeline.differences(before, self.experiment, lambda work: self.path(work).exists())
        if differing:
            raise UsageError(
                f"{self.paths.root} was made with other settings ({'; '.join(differing)}): "
                "choose another --out (OUT=...)"
            )

    def _made_with(self) -> Experiment | None:
        """Return the experiment that made the directory; None where there is none. UsageError where it is unknown."""
        path = self.paths.config
        existed = path.exists()  # asked first, since another part may write it now
        saved = files.read_json(path)
        if saved is None:
            if existed:
                raise UsageError(f"{path} is damaged: delete it if these settings made what is beside it")
            return None
        if saved.pop("layout", 1) != LAYOUT:
            raise UsageError(
                f"{self.paths.root} was made by another version of this repository: choose another --out (OUT=...)"
            )
        return build({"sampler": "own"} | saved)  # what drew everything before there was the field

    def keep_settings(self) -> None:
        """Record the experiment in the directory, and what an earlier one had beyond it, which is still there."""
        self.refuse_other_settings()
        before, now = self._made_with(), self.experiment
        if before is not None:
            seeds = max(now.num_seeds, before.num_seeds)
            now = now.with_values(
                temperatures=[*dict.fromkeys(now.temperatures + before.temperatures)],
                control_temperatures=[*dict.fromkeys(now.control_temperatures + before.control_temperatures)],
                num_seeds=seeds,
                students=[each.model_dump() for each in dict.fromkeys([*now.students, *before.students])],
                placed=[each.model_dump() for each in dict.fromkeys([*now.placed, *before.placed])],
                students_of_truth=now.students_of_truth or before.students_of_truth,
            )
        files.write_json(self.paths.config, {"layout": LAYOUT, **now.to_dict()})

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that does this part in the directory, and remove what killed ones left half written.

        Of a run of several processes the main one holds the lock. UsageError where another run has it, or has
        meanwhile made another experiment here.
        """
        if not processes.is_main():
            yield
            return
        with locks.writing(self.paths.lock, str(self.part)):
            self.refuse_other_settings()
            files.remove_leftovers(self.paths.root, DIRECTORIES, alone=self.part.num == 1)
            if self.paths.ground_truth.is_dir():
                self.keep_settings()
            yield

    def progress(self, kind: str, by: Distribution, what: str, total: int) -> AbstractContextManager[tqdm]:
        """Return a progress bar of so many tokens that ends with a line in timings.jsonl (llm/store/timings.py)."""
        return timed(self.paths.timings, kind, by.model, what, total)

    def describe(self, work: Work) -> str:
        """Return a line for a dry run: what is done, from what, into what, and whether it is there."""
        made = f"-> {self.path(work)} ({'there' if self.is_marked(work) else 'to do'})"
        if work.kind in ("prepare", "keep"):
            return f"{work}: {work.source or self.experiment.ground_truth} {made}"
        number = work.data.num_sequences if work.data else self.experiment.num_train
        tokens = work.epochs * number * self.experiment.max_length
        often = f"{work.epochs} times " if work.kind in ("train", "select") else ""
        return f"{work}: {often}{number:,} sequences, at most {tokens:,} tokens {made}"


def open_run(doc: str, argv: list[str] | None = None, in_parts: bool = True, **command: Any) -> tuple[Run, Namespace]:
    """Return the run that a command line names, and its other flags; UsageError for other settings' run.

    doc, argv and command as `llm.settings.config.parse`. in_parts: whether it takes --part.
    """
    part = dict(type=Part.parse, default=Part(), metavar="K/N", help="do the k-th of n parts, beside the others")
    experiment, root, args = config.parse(doc, argv, **({"part": part} if in_parts else {}), **command)
    run = Run(experiment, Paths(root), args.part if in_parts else Part())
    run.refuse_other_settings()
    return run, args
