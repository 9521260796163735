"""`rtc-server cluster`: the server on a Ray cluster, on this machine or on many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .console import ConfigOption, ModelsDirOption

EPILOG = """
Examples:

  rtc-server cluster --backend echo     a cluster on this machine alone

  ray start --head; rtc-server cluster --address auto --workers 1:8 --worker-gpus 1 --backend opens2s

It needs `pip install 'rtc-server[cluster]'`. docs/cluster.md tells the rest.
"""


def cluster(
    config: ConfigOption = None,
    address: Annotated[
        str, typer.Option(help='The Ray cluster: "local" starts one here, "auto" finds that of `ray start`.')
    ] = "local",
    host: Annotated[str | None, typer.Option(help="Address that the controller listens on (server.host).")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="TCP port of the controller.")] = 21_001,
    tls: Annotated[
        bool, typer.Option("--tls/--no-tls", help="HTTPS, with the certificate of server.certs_dir.")
    ] = False,
    backend: Annotated[str | None, typer.Option(help="What speaks (engine.backend).")] = None,
    media_nodes: Annotated[int, typer.Option(min=1, max=1_000, help="Actors that carry the calls.")] = 2,
    workers: Annotated[
        str, typer.Option(metavar="MIN[:MAX]", help="Model workers, one engine each; scaled between the two.")
    ] = "1",
    worker_cpus: Annotated[float, typer.Option(min=0.0, help="CPUs of each worker, as Ray counts them.")] = 1.0,
    worker_gpus: Annotated[float, typer.Option(min=0.0, help="GPUs of each worker.")] = 0.0,
    responses_per_worker: Annotated[
        float, typer.Option(min=0.1, help="Responses being made above which there are more workers.")
    ] = 8.0,
    scale_up_seconds: Annotated[float, typer.Option(min=0.0, help="How long more workers must be wanted.")] = 10.0,
    scale_down_seconds: Annotated[float, typer.Option(min=0.0, help="How long fewer must be.")] = 300.0,
    page_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the workers' status and metrics on each machine.")
    ] = 21_002,
    num_cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs that a local cluster counts with; default: the machine's.")
    ] = None,
    models_dir: ModelsDirOption = None,
) -> None:
    """Start the server on a Ray cluster: a controller, media nodes and model workers; stops on Ctrl-C."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    from rtc_server.errors import ConfigError
    from rtc_server.inference.ray.options import ClusterOptions

    fewest, _, most = workers.partition(":")
    if not fewest.isdigit() or (most and not most.isdigit()):
        raise ConfigError(f"--workers {workers!r} is not MIN or MIN:MAX, such as 2 or 1:8.")
    flags: dict[str, object] = {
        "server.host": host,
        "engine.backend": backend,
        "models.cache_dir": None if models_dir is None else str(Path(models_dir).resolve()),
    }
    options = ClusterOptions.of(
        {
            "config": None if config is None else str(config.resolve()),
            "settings": {key: value for key, value in flags.items() if value is not None},
            "media_nodes": media_nodes,
            "min_workers": int(fewest),
            "max_workers": int(most or fewest),
            "worker_cpus": worker_cpus,
            "worker_gpus": worker_gpus,
            "responses_per_worker": responses_per_worker,
            "scale_up_seconds": scale_up_seconds,
            "scale_down_seconds": scale_down_seconds,
            "page_port": page_port,
        }
    )
    settings = options.load()
    try:
        from rtc_server.inference.ray.cluster import ClusterAddress, run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("ray", "starlette"):
            raise
        raise ConfigError("A cluster needs Ray; install it with: pip install 'rtc-server[cluster]'") from error
    place = ClusterAddress(address, settings.server.host, port, num_cpus, tls)
    raise typer.Exit(run(options, place, lambda line: print(line, flush=True)))
