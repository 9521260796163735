"""The two Serve applications, from plain arguments: what KubeRay's RayService and `rtc-server cluster` deploy.

rtc_server.inference.ray:workers      model workers, one engine each
rtc_server.inference.ray:controller   the cluster's address, and the media nodes behind it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from .controller import Controller, application
from .messages import CONTROLLER, WORKERS
from .options import ClusterOptions
from .worker import STEP_SECONDS, EngineWorker

STICKY_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""All turns of a call to one worker, as long as it lives and has room; then to the next on the ring."""
SCALING_POLICY = "rtc_server.inference.ray.scaling:scale_workers"
HEALTH_PERIOD_SECONDS = 10.0
PROXIED_REQUESTS = 1_000
"""Requests and WebSockets that one controller passes on at once."""


def workers(arguments: Mapping[str, Any]) -> Application:
    """The application of the model workers. Raises ConfigError."""
    options = ClusterOptions.of(arguments)
    settings = options.load()
    deployment: Any = serve.deployment(EngineWorker)
    configured = deployment.options(
        name=WORKERS,
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_workers,
            max_replicas=options.max_workers,
            initial_replicas=options.min_workers,
            target_ongoing_requests=options.responses_per_worker,
            upscale_delay_s=options.scale_up_seconds,
            downscale_delay_s=options.scale_down_seconds,
            metrics_interval_s=min(2.0, max(0.5, options.scale_up_seconds / 2)),
            look_back_period_s=min(10.0, max(1.0, options.scale_up_seconds)),
            policy=AutoscalingPolicy(policy_function=SCALING_POLICY),  # type: ignore[no-untyped-call]
        ),
        max_ongoing_requests=settings.engine.max_pending,
        graceful_shutdown_timeout_s=options.drain_seconds,
        graceful_shutdown_wait_loop_s=1.0,
        health_check_period_s=HEALTH_PERIOD_SECONDS,
        health_check_timeout_s=STEP_SECONDS + HEALTH_PERIOD_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class=STICKY_ROUTER),  # type: ignore[arg-type]  # as documented
        ray_actor_options={"num_cpus": options.worker_cpus, "num_gpus": options.worker_gpus},
    )
    bound: Application = configured.bind(settings, options.page_port)
    return bound


def controller(arguments: Mapping[str, Any]) -> Application:
    """The application of the controller and its media nodes. Raises ConfigError."""
    options = ClusterOptions.of(arguments)
    deployment: Any = serve.deployment(serve.ingress(application)(Controller))
    configured = deployment.options(
        name=CONTROLLER,
        num_replicas=options.controllers,
        max_ongoing_requests=PROXIED_REQUESTS,
        ray_actor_options={"num_cpus": 0},
    )
    bound: Application = configured.bind(options.load(), options.media_nodes, options.max_workers)
    return bound
