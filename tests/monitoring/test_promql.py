"""Expressions that cannot name what there is not: mistakes raise while they are written."""

from __future__ import annotations

import pytest

from rtc_server import metrics
from scripts.promql import names_of, quantile, rate, share_above, value


def test_an_expression_names_the_samples_of_its_metric() -> None:
    assert rate(metrics.CALLS_ENDED, by=("reason",)) == (
        'sum by (reason)(rate(rtc_server_calls_ended_total{instance=~"$instance"}[$__rate_interval]))'
    )
    assert value(metrics.CALLS) == 'sum(rtc_server_calls{instance=~"$instance"})'
    assert quantile(0.5, metrics.TURN_STAGE, where={"stage": "endpoint"}).startswith(
        "histogram_quantile(0.5, sum by (le)(rate(rtc_server_turn_stage_seconds_bucket{"
    )


def test_a_label_or_a_value_that_a_metric_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no label 'stage'"):
        rate(metrics.CALLS_ENDED, by=("stage",))
    with pytest.raises(ValueError, match="no label 'reason'"):
        value(metrics.CALLS, where={"reason": "hangup"})
    with pytest.raises(ValueError, match="'endpiont' is no stage"):
        quantile(0.5, metrics.TURN_STAGE, where={"stage": "endpiont"})
    with pytest.raises(ValueError, match=r"no bucket that ends at 0\.45"):
        share_above(0.45, metrics.RESPONSE_LATENCY)


def test_what_describes_a_process_has_its_name_as_a_label() -> None:
    assert "process" in names_of(metrics.LOOP_LAG)["rtc_server_event_loop_lag_seconds_bucket"]
    assert "process" not in names_of(metrics.CALLS)["rtc_server_calls"]
