"""TensorBoard beyond curves: hyper-parameters of runs, and custom charts that group their curves."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stable_baselines3.common.logger import Logger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import custom_scalars

from minrl.runs.log import annotate

Value = bool | float | str
# Category -> chart -> regular expressions of its curves' names. All kinds of runs have the same categories in the same
# order: TensorBoard merges the layouts of several runs by titles.
Layout = dict[str, dict[str, list[str]]]

# Settings that do not change what is learned.
_BOOKKEEPING = {
    *("device", "threads", "tune_cpu", "log_every", "checkpoint_every", "evaluate_every", "evaluate_episodes"),
    *("target_sweep", "validate_every", "video", "vectorization", "exact_resume", "origin"),
}
# Settings that name a run.
_NAMING = ("agent", "cell", "data", "env", "seed", "width")
# Columns of settings, and of final values, that TensorBoard shows by default.
_SHOWN = 5
# Curves whose last values are columns of the table, in this order, and the columns' titles.
METRICS = {
    "eval/normalized_score": "normalised score",
    "eval/mean_reward": "return",
    "rollout/ep_rew_mean": "return while learning",
    "train/loss": "loss",
    "validation/loss": "held-out loss",
    "time/time_elapsed": "seconds",
    "eval/mean_ep_length": "episode length",
}


def hyperparameters(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
    """Collect the settings that decide what a run learns from the tables of its `config.toml`.

    Options of a cell or an environment are separate columns, such as `cell_options.expand`. The seed is text,
    not a quantity.
    """
    (agent,) = tables.keys() - {"train"}
    values: dict[str, Value] = {"agent": agent}
    for name, value in [*tables["train"].items(), *tables[agent].items()]:
        if name in _BOOKKEEPING:
            continue
        if isinstance(value, dict):
            values |= {f"{name}.{option}": _plain(chosen) for option, chosen in value.items()}
        else:
            values[name] = _plain(value)
    return values | {"seed": str(values["seed"])}


def begin_session(log: Logger, values: Mapping[str, Value], layout: Layout) -> None:
    """Write hyper-parameters and charts into the event files of `log`.

    A resumed run may write them again: TensorBoard takes the first values of a folder.
    """
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in values.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
    annotate(log, custom_scalars(charts(layout)), _summary(metadata.SESSION_START_INFO_TAG, data))


def end_session(log: Logger) -> None:
    """Record that the run has reached its last step."""
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    annotate(log, _summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)))


def experiment(runs: Iterable[Mapping[str, Value]], metrics: Iterable[str]) -> Summary:
    """Return the columns of the table of several runs: all their hyper-parameters, then `metrics`.

    First come the settings that were swept, in which runs of one agent differ, then those that name a run.
    """
    runs = list(runs)
    values = {
        name: [run[name] for run in runs if name in run] for name in dict.fromkeys(n for run in runs for n in run)
    }
    swept = _swept(runs)
    differing = [name for name in _NAMING if len(set(values.get(name, ()))) > 1]
    order = dict.fromkeys([*differing, *(name for name in _NAMING if name in values)])
    # TensorBoard sorts columns marked as differing before the rest, alphabetically.
    first = {*swept, *[name for name in order if name not in swept][: max(0, _SHOWN - len(swept))]}
    infos = [_info(name, given, differs=name in first) for name, given in values.items()]
    names = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=METRICS[tag]) for tag in metrics]
    data = plugin_data_pb2.HParamsPluginData(
        experiment=api_pb2.Experiment(hparam_infos=infos, metric_infos=names, time_created_secs=time.time())
    )
    return _summary(metadata.EXPERIMENT_TAG, data)


def _swept(runs: Sequence[Mapping[str, Value]]) -> list[str]:
    """Return the settings, without the seed, in which runs of one agent differ or which some of them lack."""
    found: dict[str, None] = {}
    for agent in dict.fromkeys(run.get("agent") for run in runs):
        alike = [run for run in runs if run.get("agent") == agent]
        for name in dict.fromkeys(name for run in alike for name in run):
            if name != "seed" and len({run.get(name) for run in alike}) > 1:
                found[name] = None
    return list(found)


def charts(layout: Layout) -> dict[str, dict[str, list[Any]]]:
    """Convert a layout to the form that torch's `custom_scalars` takes."""
    return {title: {name: ["Multiline", tags] for name, tags in group.items()} for title, group in layout.items()}


def offline_layout(*, plays: bool, scores: bool, sweeps: bool, validates: bool, unit: str = "") -> Layout:
    """Return the charts of a run that learns from a data set.

    Args:
        plays: it is evaluated in an environment.
        scores: its returns are normalised.
        sweeps: more than one evaluation sweeps target returns. A single sweep is the image `eval/targets`: achieved
            over target return.
        validates: episodes are held out.
        unit: of the loss.
    """
    played = {
        **({"normalised score": ["eval/normalized_score"]} if scores else {}),
        "return": ["eval/mean_reward"],
        **({"return achieved for each target return": ["eval/target_.*_mean_reward"]} if sweeps else {}),
        "episode length": ["eval/mean_ep_length"],
    }
    unit = f" ({unit})" if unit else ""
    held_out = {
        f"loss on held-out episodes{unit}": ["validation/loss"],
        "action error per dimension on held-out episodes (in its own unit; of choices the share that is wrong)": [
            "validation/action_error_.*"
        ],
    }
    return _exact(
        evaluation={**(played if plays else {}), **(held_out if validates else {})},
        training={
            f"loss{unit}": ["train/loss"],
            "gradient norm": ["train/grad_norm"],
            "learning rate": ["train/learning_rate"],
        },
        time={
            "steps of trajectories per second": ["time/fps"],
            "gradient steps per second": ["time/steps_per_second"],
            "seconds of training": ["time/time_elapsed"],
        },
    )


def online_layout(*, plays: bool) -> Layout:
    """Return the charts of a run that learns by acting; `plays`: it is evaluated too."""
    played = {"return": ["eval/mean_reward"], "episode length": ["eval/mean_ep_length"]}
    return _exact(
        evaluation={
            **(played if plays else {}),
            "return while learning": ["rollout/ep_rew_mean"],
            "episode length while learning": ["rollout/ep_len_mean"],
        },
        training={
            "loss": ["train/loss"],
            "policy loss": ["train/policy_gradient_loss"],
            "value loss": ["train/value_loss"],
            "explained variance of the values": ["train/explained_variance"],
            "entropy loss": ["train/entropy_loss"],
            "change of the policy (approximate KL)": ["train/approx_kl"],
            "learning rate": ["train/learning_rate"],
        },
        time={"environment steps per second": ["time/fps"], "seconds of training": ["time/time_elapsed"]},
    )


def _exact(**categories: dict[str, list[str]]) -> Layout:
    """Anchor expressions so that they match whole names."""
    return {
        title: {name: [f"^{tag}$" for tag in tags] for name, tags in charts.items()}
        for title, charts in categories.items()
    }


def _plain(value: Any) -> Value:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _info(name: str, values: list[Value], *, differs: bool) -> api_pb2.HParamInfo:
    """Describe a column and its type: text where runs do not agree on one."""
    info = api_pb2.HParamInfo(name=name, differs=differs)
    kinds = {"bool" if isinstance(v, bool) else "text" if isinstance(v, str) else "number" for v in values}
    if kinds == {"number"}:
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = float(min(values)), float(max(values))
        return info
    # No list of values for text: TensorBoard would hide runs that start later with other values.
    info.type = api_pb2.DATA_TYPE_BOOL if kinds == {"bool"} else api_pb2.DATA_TYPE_STRING
    if kinds == {"bool"}:
        info.domain_discrete.extend([False, True])
    return info


def _summary(tag: str, data: Any) -> Summary:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
