"""LightningCLI with ``--cim.*`` options and the subcommands ``evaluate`` and ``program``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lightning_cim._compat import MisconfigurationException
from lightning_cim._files import tensors_of
from lightning_cim.callbacks.variation_injection import VariationInjection
from lightning_cim.chip.mapping import Mapping
from lightning_cim.evaluation.evaluate import evaluate_chips
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.evaluation.retention_result import RetentionResult
from lightning_cim.programming.program import program
from lightning_cim.programming.report import ProgrammingReport
from lightning_cim.programming.sensitivity import Method
from lightning_cim.sweep.report import report
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import Gaussian


class CIMOptions:
    """The variation that training injects and that ``evaluate`` and ``program`` draw their chips from.

    Args:
        sigma: Short for a Gaussian relative to each tensor's max|W|. 0: no variation.
        variation: Any other variation; instead of sigma.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        seed: Seed of the training chips and of the evaluated population.
        redraw_every_n_steps: Batches that share a training chip.
        warmup_steps: Batches over which the deviation grows to its full size.
        validation_chips: Held chips that each validation batch runs on; 0: clean validation.

    Raises:
        ValueError: Both sigma and variation.
    """

    def __init__(
        self,
        sigma: float | None = None,
        variation: Variation | None = None,
        mapping: Mapping | None = None,
        seed: int = 0,
        redraw_every_n_steps: int = 1,
        warmup_steps: int = 0,
        validation_chips: int = 0,
    ) -> None:
        if sigma is not None and variation is not None:
            raise ValueError("give either --cim.sigma or --cim.variation, not both")
        self.variation = Gaussian(sigma) if sigma is not None else variation
        self.mapping, self.seed = mapping, seed
        self.redraw_every_n_steps, self.warmup_steps = redraw_every_n_steps, warmup_steps
        self.validation_chips = validation_chips

    def injection(self) -> VariationInjection | None:
        """The callback that these options describe; None without a variation."""
        if self.variation is None:
            return None
        return VariationInjection(
            self.variation,
            self.mapping,
            self.seed,
            self.redraw_every_n_steps,
            warmup_steps=self.warmup_steps,
            validation_chips=self.validation_chips,
        )


class CIMTrainer(Trainer):
    """A Trainer with the verbs ``evaluate`` and ``program``, which the CLI needs for its subcommands."""

    def evaluate(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        options: CIMOptions | None = None,
        ckpt_path: str | None = None,
        weights_only: bool = True,
        chips: int = 100,
        k: float = 1.0,
        stage: Literal["validate", "test"] = "test",
        csv: str | None = None,
        plot: str | None = None,
        workers: int = 1,
        times: list[str | float] | None = None,
    ) -> ChipResult | RetentionResult:
        """Test on simulated chips and print the table; see :func:`lightning_cim.evaluate_chips`.

        Args:
            model: The LightningModule.
            datamodule: Its data; default: the module's own loaders.
            options: Variation, mapping and seed.
            ckpt_path: Load these weights, and the states of the callbacks that simulate hardware, first.
            weights_only: Refuse a checkpoint that holds more than tensors and plain values: opening it could run code.
            chips: How many.
            k: The percentile, in per cent.
            stage: Which loop.
            csv: Write each chip here as soon as it is done; a killed run continues.
            plot: Write the histogram here; with times the curve.
            workers: Processes that simulate chips side by side.
            times: Since programming, such as ``[1s,1h,1d,1mo,1y]``: every chip at each of them.

        Raises:
            ValueError: No variation was given, or the checkpoint cannot be opened.
        """
        if options is None or options.variation is None:
            raise ValueError("evaluate needs a variation: --cim.sigma=0.1, or --cim.variation=...")
        if ckpt_path is not None:
            self._restore(model, ckpt_path, weights_only)
        data: Any = datamodule  # mypy tries at most four unions against overloads
        result = evaluate_chips(
            self,
            model,
            data,
            variation=options.variation,
            chips=chips,
            seed=options.seed,
            mapping=options.mapping,
            stage=stage,
            k=k,
            csv=csv,
            workers=workers,
            times=times,
        )
        if self.is_global_zero:
            print(result.table(k=k))
            last = result.at(result.times[-1]) if isinstance(result, RetentionResult) else result
            report(last.summary(k))
            if plot is not None:
                result.plot(k=k)[0].savefig(plot)
        return result

    def program(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        options: CIMOptions | None = None,
        ckpt_path: str | None = None,
        weights_only: bool = True,
        verify_fraction: float | None = None,
        max_drop: float | None = None,
        granularity: float = 0.05,
        method: Literal["swim", "magnitude", "random"] = "swim",
        sensitivity: Method = "auto",
        residual: Variation | None = None,
        simulate: bool = False,
        chips: int = 20,
        csv: str | None = None,
        plot: str | None = None,
        workers: int = 1,
    ) -> ProgrammingReport:
        """Program simulated chips with selective write-verify and print the table; see :func:`lightning_cim.program`.

        The sensitivity comes from the training data; the validation data decides when to stop.

        Args:
            model: The LightningModule.
            datamodule: Its data; default: the module's own loaders.
            options: Variation, mapping and seed.
            ckpt_path: Load these weights, and the states of the callbacks that simulate hardware, first.
            weights_only: Refuse a checkpoint that holds more than tensors and plain values: opening it could run code.
            verify_fraction: Share of weights to verify. Give either this or max_drop.
            max_drop: How far below the ideal the score may stay, in its own units.
            granularity: Share of weights to verify at a time.
            method: How weights are ranked.
            sensitivity: How it is computed.
            residual: How verified weights deviate; default: a Gaussian of 0.03 in the variation's convention.
            simulate: Simulate the write-verify loop instead, and count its cycles.
            chips: How many.
            csv: Write each score here as soon as it is measured; a killed run continues.
            plot: Write the curve here.
            workers: Processes that program chips side by side.

        Raises:
            ValueError: No variation was given, or the checkpoint cannot be opened.
        """
        if options is None or options.variation is None:
            raise ValueError("program needs a variation: --cim.sigma=0.1, or --cim.variation=...")
        if ckpt_path is not None:
            self._restore(model, ckpt_path, weights_only)
        if datamodule is not None:
            datamodule.trainer = self
        model.to(self.strategy.root_device)  # before the twins make their tensors beside it
        with ExitStack() as undo:
            undo.callback(setattr, model, "trainer", model._trainer)
            model.trainer = self
            for callback in self.callbacks:  # type: ignore[attr-defined]
                if getattr(callback, "simulates_hardware", False):
                    twin = callback.for_evaluation()
                    twin.attach(self, model)
                    undo.callback(twin.detach)
            programmed = program(
                model,
                model if datamodule is None else datamodule,
                options.variation,
                verify_fraction=verify_fraction,
                max_drop=max_drop,
                granularity=granularity,
                method=method,
                sensitivity=sensitivity,
                residual=residual,
                simulate=simulate,
                chips=chips,
                seed=options.seed,
                mapping=options.mapping,
                csv=csv,
                trainer=self,
                workers=workers,
            )
        if self.is_global_zero:
            print(programmed.table())
            if plot is not None:
                programmed.plot()[0].savefig(plot)
        return programmed

    def _restore(self, model: LightningModule, ckpt_path: str, weights_only: bool) -> None:
        checkpoint = _checkpoint(ckpt_path, weights_only)
        model.load_state_dict(checkpoint["state_dict"])
        states = checkpoint.get("callbacks", {})
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if getattr(callback, "simulates_hardware", False) and callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])


def _checkpoint(path: str, weights_only: bool) -> dict[str, Any]:
    """What a checkpoint of Lightning holds.

    Raises:
        ValueError: It is none, or opening it could run code; names the file.
    """
    unless = " If you trust where it comes from, pass --weights_only=false; opening it can then run any code"
    found = tensors_of(Path(path), weights_only, unless)
    if not isinstance(found.get("state_dict"), dict):
        raise ValueError(f"{path}: not a checkpoint of Lightning: it has no state_dict")
    return found


class ConfigToLogger(SaveConfigCallback):
    """Saves the config beside the run, and gives it to the logger, which LightningCLI alone does not."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the whole config as hyperparameters, on rank zero."""
        if trainer.logger is not None:
            trainer.logger.log_hyperparams(yaml.safe_load(self.parser.dump(self.config)))


class CIMCLI(LightningCLI):
    """LightningCLI for compute-in-memory: ``--cim.sigma=0.1`` injects variation, ``evaluate`` tests on chips.

    Subcommands: fit, validate, test, predict, evaluate and program. Everything in the config can be printed with
    ``--print_config`` and read back with ``--config``; the config of a run is saved beside it and reaches its logger.

    Args:
        args: As LightningCLI's.
        kwargs: As LightningCLI's.

    Example:
        ``python train.py fit --model=MyModule --data=MyData --cim.sigma=0.1``
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("trainer_class", CIMTrainer)
        kwargs.setdefault("seed_everything_default", 0)
        kwargs.setdefault("save_config_callback", ConfigToLogger)
        kwargs.setdefault("save_config_kwargs", {"overwrite": True})
        super().__init__(*args, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's four, ``evaluate`` and ``program``."""
        ours = {"model", "datamodule", "options"}
        return {**LightningCLI.subcommands(), "evaluate": ours, "program": ours}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--cim.*``."""
        parser.add_class_arguments(CIMOptions, "cim")

    def instantiate_classes(self) -> None:
        """Build everything; a value that a class refuses ends like a typo does, with the message and exit status 2."""
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            self.parser.error(str(error))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with the injection that ``--cim.*`` describes."""
        injection = self._get(self.config_init, "cim").injection()
        if injection is not None and self.subcommand not in ("evaluate", "program"):
            configured = self._get(self.config_init, "trainer").get("callbacks") or []
            callbacks = configured if isinstance(configured, list) else [configured]
            kwargs["callbacks"] = [*callbacks, injection]
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run; what ``evaluate`` or ``program`` refuses ends like a typo does, the error of a user's code as it is."""
        try:
            super()._run_subcommand(subcommand)
            if self.trainer.is_global_zero:
                report(self.trainer.callback_metrics)
        except (ValueError, MisconfigurationException) as error:
            if subcommand not in ("evaluate", "program") or not _is_ours(error):
                raise
            self.parser.error(str(error))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("evaluate", "program"):
            kwargs["options"] = self._get(self.config_init, "cim")
        return kwargs


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it, not the user's module or torch."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith(f"{__package__}.")
