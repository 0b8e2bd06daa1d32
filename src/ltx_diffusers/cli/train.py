"""`ltx-diffusers train vae|transformer|lora`: training, from a config file or a preset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .train_lora import command as lora_command

if TYPE_CHECKING:
    from ..training.config import RunConfig

app = typer.Typer(
    help="Train a video VAE or a transformer from a config file, or a LoRA.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[Path, typer.Option("--config", help="YAML file; see configs/ for the recipes.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings that replace those of the file, like stages.0.steps=10."
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint of the run's folder.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads; one is often faster than all for small models."),
]


@app.command("vae")
def train_vae(
    config: ConfigOption,
    overrides: OverridesArgument = None,
    resume: ResumeOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Train a video VAE; the finished one lies in OUTPUT/model."""
    from ..training.config import load_config
    from ..training.vae import VAETask, VAETrainConfig

    run_training(VAETask, load_config(VAETrainConfig, config, overrides or ()), resume, threads)


@app.command("transformer")
def train_transformer(
    config: ConfigOption,
    overrides: OverridesArgument = None,
    resume: ResumeOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Train a transformer, from scratch, fully or by a LoRA, as the config says; the result lies in OUTPUT/model."""
    from ..training.config import load_config
    from ..training.transformer import TransformerTask
    from ..training.transformer_config import TransformerTrainConfig

    run_training(
        TransformerTask, load_config(TransformerTrainConfig, config, overrides or ()), resume, threads
    )


app.command("lora")(lora_command)


def run_training(task: type, config: RunConfig, resume: bool, threads: int | None) -> Path | None:
    """Run a training; in the main process the folder of the finished model comes back, in the others None."""
    import torch

    from ..errors import TrainingStopped
    from ..training.loop import Trainer
    from ..training.processes import join_processes
    from ..training.run_folder import check_run, hold_run
    from .setup import set_up

    processes = join_processes()
    check_run(config, resume=resume)  # now: building the task may encode thousands of clips
    if processes.is_main_process:
        hold_run(Path(config.output))
    set_up()
    if threads is not None:
        torch.set_num_threads(threads)
    trainer = Trainer(task(config), config, resume=resume)
    try:
        model = trainer.train()
    except TrainingStopped as stop:
        if trainer.accelerator.is_main_process:
            typer.echo(str(stop), err=True)
        raise typer.Exit(stop.exit_code) from None
    if not trainer.accelerator.is_main_process:
        return None
    typer.echo(f"the finished model is in {model}")
    return model
