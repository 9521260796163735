"""The server on a Ray cluster: model workers, media nodes and a controller. The only package that imports Ray.

Placement of processes, health, restart and scaling are Ray's. Ours is what goes on inside: `worker` hosts one engine,
`client` lets a media node use the workers, `media` hosts a whole server with calls of its own, `controller` takes the
requests of the outside and passes each on to the media node that it is about.

For KubeRay's RayService: `rtc_server.inference.ray:workers` and `rtc_server.inference.ray:controller`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def workers(arguments: Mapping[str, Any]) -> Application:
    """The Serve application of the model workers; see `options.ClusterOptions`. Raises ConfigError."""
    from . import applications  # it loads Ray, which the pure modules of this package do not need

    return applications.workers(arguments)


def controller(arguments: Mapping[str, Any]) -> Application:
    """The Serve application of the controller and the media nodes; the same arguments. Raises ConfigError."""
    from . import applications

    return applications.controller(arguments)
