"""What the templates of the READMEs may name of the tables that other rooms wrote. Shares are in per cent.

The READMEs tell of every room of scripts/, so this module alone imports from several.
"""

import numpy as np
import pandas as pd

from llm.distributions import DIRECT, TEACHER, student_name
from llm.intervals import Estimate, adjusted
from llm.settings.config import REPOSITORY
from scripts.analysis.claims import READINGS
from scripts.analysis.results import COMMITTED, Results
from scripts.costs.cost import UTILISATION, published
from scripts.trl import comparison

SCRIPTS = REPOSITORY / "scripts"


# ----------------------------------------------------------------------------------------------------- evidence


def estimators() -> dict[str, pd.Series]:
    """Return how the variance and the coverage of the regression are where the truth is known."""
    frame = pd.read_csv(COMMITTED / "estimators.csv")
    ours = frame[frame["estimator"] == "regression"]
    held, of_100 = 100 * ours["coverage"], ours["num_sequences"] == 100
    shares = {"held_by_100": held[of_100], "held_by_more": held[~of_100]}
    return {"ratio": ours["ratio"], "repetitions": frame["repetitions"].max()} | shares


def coverage() -> dict[str, object]:
    """Return how often intervals hold the mean in simulated experiments."""
    frame = pd.read_csv(COMMITTED / "coverage.csv")
    held = 100 * frame["coverage"]
    over_seeds = (frame["interval"] == "t over seeds") & (frame["num_seeds"] == 5)
    return {
        "over_five_seeds": held[over_seeds],
        "crossed": held[frame["interval"] == "crossed"],
        "num_seeds": frame["num_seeds"],
    }


def equal_entropy() -> dict[str, object]:
    """Return how the comparison at equal self-entropy was tried, in nats a token."""
    frame = pd.read_csv(COMMITTED / "equal_entropy.csv")
    parts = dict(iter(frame.groupby("part")))
    curve, itself, held = parts["curve"], parts["itself"], parts["coverage"]
    left_out = {case: rows["value"].abs() for case, rows in parts["left out"].groupby("case")}
    by_chord = itself[(itself["method"] == "chord") & (itself["run"] == "race")]
    of_control = by_chord[by_chord["case"].str.startswith("the c")].set_index("quantity")["value"]
    of_two = held[(held["method"] == "chord") & (held["quantity"] == "recall")]
    three, five = 100 * of_two.loc[of_two["case"].str.contains("two"), "value"]
    return {
        "curve": curve["value"].max(),
        "gap": curve["gap"].max(),
        "mean_error": left_out["mean error"],
        "single_error": left_out["mean absolute error"],
        "of_itself": itself.loc[itself["method"] == "offsets", "value"].abs().max(),
        "held": 100 * held.loc[held["method"] != "chord", "value"],
        "lost_by_chord": -of_control,
        "held_by_chord": {"three": three, "five": five},
        "thinned": parts["thinned"].groupby("quantity")["value"].apply(lambda values: values.abs().max()),
    }


def lengths() -> dict[str, object]:
    """Return what other lengths of training do to seed 0's models."""
    frame = pd.read_csv(COMMITTED / "length.csv")
    by_model = frame.set_index(["model", "epochs"])
    evaluated = frame[frame["precision"].notna()].sort_values("epochs").groupby("model")
    recall = by_model["recall"].dropna().unstack()
    return {
        "rows": frame[frame["precision"].notna()].to_dict("records"),
        "longer_changes_nats": {
            name: by_model["longer_changes_nats_by"][model, 6]
            for name, model in (("direct", DIRECT), ("teacher", TEACHER), ("coldest", student_name(0.8)))
        },
        "more_precise": all(evaluated["precision"].apply(lambda each: each.is_monotonic_increasing)),
        "more_selective": all(evaluated["entropy"].apply(lambda each: each.is_monotonic_decreasing)),
        "raise_recall": all(recall[6] > recall[4]),
        "lose_recall_after_six": list(recall.index[recall[9] < recall[6]]),
    }


def larger() -> dict[str, object]:
    """Return what a D four times as large changes, of seed 0."""
    frame = pd.read_csv(COMMITTED / "larger.csv")
    frame["estimate"] = list(map(Estimate, frame["value"], frame["low"], frame["high"]))
    rows = frame.pivot(index=["model", "num_train"], columns="quantity", values="estimate")
    values = frame.set_index(["quantity", "num_train", "model"])["value"].unstack()
    gain = values[student_name(0.8)] - values[DIRECT]
    return {
        "rows": rows.loc[frame["model"].unique()].reset_index().to_dict("records"),
        "epochs": frame.groupby("num_train")["epochs"].max(),
        "all_gain": bool((values.diff().loc[[("precision", 24000), ("recall", 24000)]] > 0).all(axis=None)),
        "lead_of_teacher": (values.loc["recall", TEACHER] - values.loc["recall", DIRECT]).to_dict(),
        "gain": gain["precision"].to_dict(),
        "cost": (-gain["recall"]).to_dict(),
    }


# -------------------------------------------------------------------------------------------------- other rooms


def public() -> dict[str, int]:
    """Return how many values of public trainers' losses there are, of how many functions and packages."""
    frame = pd.read_csv(SCRIPTS / "objectives" / "public.csv")
    functions = frame[["package", "function"]].drop_duplicates()
    return {"num_values": len(frame), "num_functions": len(functions), "num_packages": functions["package"].nunique()}


def released() -> dict[str, object]:
    """Return what each deviation of the released code is worth."""
    rows = Results(COMMITTED).released.set_index(["deviation", "quantity", "side"]).sort_index()
    recall = rows.loc[("released initialisation", "recall", "difference")]
    differences = rows[rows["low"].notna()].xs("difference", level="side")
    apart = differences[(differences["low"] > 0) | (differences["high"] < 0)]
    again = "end of sequence dropped, text tokenised again", "share of D whose ids change, EOS aside"
    value = rows["value"]
    on_test = "checkpoints selected on test", "models that select another epoch, of 6"
    return {
        "num_other_epochs": value[*on_test, "released"],
        "initialisation": Estimate(*recall[["value", "low", "high"]]),
        "perplexity": value["padding scored in perplexity", "perplexity on validation"],
        "other_ids": 100 * value[*again, "released"],
        "stops": 100 * value["end of sequence dropped", "stop rate"],
        "apart": list(apart.index),
    }


def vllm() -> dict[str, object]:
    """Return whether vLLM draws what is enumerated, how it differs from our sampler, and its published rates."""
    exact, same, speed = (pd.read_csv(SCRIPTS / "vllm" / f"{name}.csv") for name in ("exact", "same", "speed"))
    differences = zip(same["quantity"], map(Estimate, same["difference"], same["low"], same["high"]), strict=True)
    (num_compared,) = set(same["sequences"])
    return {
        "taus": exact["tau"].tolist(),
        "num_draws": exact["sequences"].min(),
        "p_values": exact["p_value"].tolist(),
        "draws_from_them": bool(exact["draws_from_them"].all()) and min(adjusted(exact["p_value"].tolist())) >= 0.05,
        "difference": dict(differences),
        "separated": [each.quantity for each in same.itertuples() if each.low > 0 or each.high < 0],
        "num_compared": num_compared,
        "ratio": speed["ratio"],
        "published": list(published(UTILISATION).values()),
    }


def gpu() -> dict[str, object]:
    """Return the one rate that was measured on a GPU."""
    (row,) = pd.read_csv(SCRIPTS / "costs" / "gpu.csv").to_dict("records")
    return row | {"times": row["planned"] / row["tokens_per_second"], "utilisation": UTILISATION}


def architectures() -> dict[str, int]:
    """Return how many architectures of transformers were tried, and with which result."""
    frame = pd.read_csv(SCRIPTS / "faults" / "architectures.csv", keep_default_na=False)
    both_sides = frame["why"].str.contains("later ids") | (frame["architecture"] == "roc_bert")
    counts = frame["result"].value_counts()
    return {"tried": len(frame), "both_sides": int(both_sides.sum())} | {
        name.replace(" ", "_"): int(counts[name]) for name in ("admitted", "refused", "not built")
    }


def mixture() -> dict[str, object]:
    """Return the numbers of the mixture of Gaussians."""
    mog = Results(COMMITTED).mixture
    distilled, shrunk = mog["control"]["distilled"], mog["control"]["shrunk"]
    order = np.argsort(shrunk["recall"])
    at_that_recall = np.interp(
        distilled["recall"], *(np.array(shrunk[name])[order] for name in ("recall", "precision"))
    )
    wins = np.array(distilled["precision"]) > at_that_recall
    (last,) = np.flatnonzero(np.diff(wins.astype(int)) == 1)
    rows = []
    for name, each in sorted(mog["table"].items()):
        row = {"what": name.replace(" ", ", "), "published": each["published"]}
        for reading in READINGS:
            median, low, high = (mog["seeds"][f"{name}, {reading}"][end] for end in ("median", "low", "high"))
            row[reading.replace(" ", "_")] = Estimate(median, low, high)
        rows.append(row)
    return {
        "rows": rows,
        "num_seeds": mog["seeds"]["num_seeds"],
        "direction": 100 * mog["seeds"]["direction"]["as defined"]["both"],
        "control_has_more_up_to": distilled["beta"][last],
        "distilled_has_more_from": distilled["beta"][last + 1],
    }


def trl() -> dict[str, object]:
    """Return how TRL's students differ from ours."""
    table, equal = pd.read_csv(comparison.COMPARISON), pd.read_csv(comparison.EQUAL)
    (num_seeds,), (versions,) = (set(table[name]) | set(equal[name]) for name in ("num_seeds", "versions"))
    same, with_0 = table["verdict"] == "the same", (table["difference_low"] < 0) & (table["difference_high"] > 0)
    return {
        "version": dict(each.split(" ") for each in versions.split(", "))["trl"],
        "tables": comparison.tables(table, equal),
        "num_seeds": num_seeds,
        "loss_gap": equal["loss_gap"].max(),
        "weights_gap": equal["weights_gap"].max(),
        "num_differences": len(table),
        "num_the_same": int(same.sum()),
        "num_with_0": int(with_0.sum()),
    }
