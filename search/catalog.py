"""What a user may choose and what each choice means: spaces, strategies, objectives, budgets and their options.

Loads nothing heavy: the API validates requests with it and never imports the engine.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

GENOTYPE_VERSION = 1
MAX_SEEDS = 1_000  # genotypes that one search may be given to begin with


class OptionError(ValueError):
    """A choice that is not on offer. `field` names it (`space_options.blocks`); the message says what is accepted."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. minimum and maximum are inclusive and belong to the numeric types, choices to `choice`; a default of
    None leaves it out."""

    name: str
    type: Literal["integer", "number", "boolean", "choice"]
    default: int | float | bool | str | None
    explanation: str
    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[str, ...] = ()

    def check(self, field: str, value: Any) -> None:
        """Raises OptionError when `value` is not one this option takes."""
        if self.type == "choice":
            if value not in self.choices:
                raise OptionError(field, f"{value!r} is not one of {', '.join(self.choices)}")
        elif self.type == "boolean":
            if not isinstance(value, bool):
                raise OptionError(field, f"{value!r} is neither true nor false")
        else:
            whole = self.type == "integer"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise OptionError(field, f"{value!r} is not {'a whole number' if whole else 'a number'}")
            if not self.minimum <= value <= self.maximum:  # NaN fails, too
                raise OptionError(field, f"{value!r} is not between {self.minimum:g} and {self.maximum:g}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A named choice, one sentence about it, and its options. spaces: for a strategy, the spaces it can search."""

    name: str
    explanation: str
    options: tuple[Option, ...] = ()
    spaces: tuple[str, ...] = ()

    def resolve(self, options: Mapping[str, Any], field: str = "options") -> dict[str, Any]:
        """The given options, checked, with the defaults of the others. Raises OptionError."""
        known = {option.name: option for option in self.options}
        for name, value in options.items():
            if name not in known:
                accepted = f"it takes {', '.join(known)}" if known else "it takes none"
                raise OptionError(f"{field}.{name}", f"{self.name!r} has no such option; {accepted}")
            known[name].check(f"{field}.{name}", value)
        return {name: options.get(name, option.default) for name, option in known.items()}


SPACES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "stages",
            "Whole fast convolutional networks and their recipe: depth, width, kernels, resolution, learning rate. "
            "The choice for short budgets and processors.",
        ),
        Entry(
            "cell",
            "NASNet's space: a normal and a reduction cell of blocks, stacked into a network. Wide and well studied; "
            "wants a GPU or hours.",
            (
                Option("blocks", "integer", 5, "Blocks in each cell (B of the paper).", 1, 7),
                Option(
                    "ops",
                    "choice",
                    "fast",
                    "Operations a block may use: dense ones that processors run well, or those of ENAS (5), PNAS (8) "
                    "or NASNet (13).",
                    choices=("fast", "enas", "pnas", "nasnet"),
                ),
                Option(
                    "tied",
                    "boolean",
                    False,
                    "The reduction cell is the normal one at stride 2, as in PNAS: half as many choices.",
                ),
                Option("cells", "integer", 1, "Normal cells before, between and after the reductions (N).", 1, 20),
                Option("filters", "integer", 16, "Channels of the first cells (F); doubled at each reduction.", 4, 512),
                Option("stem_multiplier", "integer", 3, "Channels of the first convolution, as a multiple of F.", 1, 8),
                Option("side", "integer", 32, "Largest training resolution in pixels.", 8, 128),
                Option(
                    "drop_path",
                    "number",
                    0.0,
                    "How often a path is dropped at the end of a training (ScheduledDropPath); 0.3 for long ones.",
                    0,
                    0.9,
                ),
            ),
        ),
        Entry(
            "macro",
            "ENAS's whole networks: for each layer one of six operations, and skip connections to any earlier layer.",
            (
                Option("layers", "integer", 8, "Layers (L); halved after a third and after two thirds of them.", 3, 24),
                Option("filters", "integer", 16, "Channels of the first layers (F); doubled at each halving.", 4, 512),
                Option("side", "integer", 32, "Largest training resolution in pixels.", 8, 128),
            ),
        ),
        Entry(
            "nb201",
            "The cell of NAS-Bench-201, repeated: six edges, one of five operations on each. Small enough to be searched "
            "to the end, and its published results are known.",
            (
                Option("cells", "integer", 1, "Cells in each of the three stages (N; 5 in the paper).", 1, 20),
                Option("channels", "integer", 16, "Channels of the first stage (C); doubled at each halving.", 4, 512),
                Option("side", "integer", 32, "Largest training resolution in pixels.", 8, 128),
            ),
        ),
    )
}

AS_TIME_ALLOWS = 0  # of rungs: settled at a search's first turn
POOL = Option("pool", "integer", 500, "Candidates weighed at a time: changes of the best, and draws.", 10, 10_000)
ETA = Option(
    "eta", "integer", 3, "Each rung trains so many times as long as the one below; one of so many goes on.", 2, 10
)
HALVING = (
    Option(
        "rungs",
        "integer",
        1,
        "Lengths of training under successive halving (ASHA): candidates begin with the shortest, the best go on; 1 is off.",
        1,
        5,
    ),
    ETA,
)  # of every strategy that tries many architectures; see search/strategies/asha.py

STRATEGIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "race",
            "The default: starts at the fixed network and tries changes of the best found; once there are enough to "
            "learn from, a Gaussian process decides. Made for minutes as for hours.",
            (
                Option("initial", "integer", 10, "Architectures before the model decides.", 3, 1000),
                Option(
                    "novelty", "number", 0.2, "Share of these that are drawn from the whole space, not changes.", 0, 1
                ),
                Option("elite", "integer", 3, "How many of the best may become their parents.", 1, 100),
                replace(POOL, default=200),
                Option(
                    "rungs",
                    "integer",
                    AS_TIME_ALLOWS,
                    "Lengths of training under successive halving (ASHA); 1 is off, 0 leaves it to the time there is.",
                    AS_TIME_ALLOWS,
                    5,
                ),
                ETA,
            ),
            tuple(SPACES),
        ),
        Entry(
            "random",
            "Draws from the whole space, without repeats: the baseline that every method has to beat.",
            HALVING,
            tuple(SPACES),
        ),
        Entry(
            "local",
            "Climbs from neighbour to neighbour and begins elsewhere on every summit: strong in small spaces (White et "
            "al. 2020).",
            HALVING,
            tuple(SPACES),
        ),
        Entry(
            "evolution",
            "Regularised evolution: the best of a random few becomes the parent of one changed child, the oldest "
            "dies (Real et al. 2019).",
            (
                Option("population", "integer", 10, "Architectures alive at a time (P of the paper).", 2, 1000),
                Option("sample", "integer", 3, "How many compete to become the parent (S).", 1, 1000),
                Option(
                    "inherit",
                    "boolean",
                    False,
                    "A child starts from its parent's weights in the layers that were not changed (Real et al. 2017).",
                ),
                *HALVING,
            ),
            tuple(SPACES),
        ),
        Entry(
            "bayesian",
            "A Gaussian process on features of the architectures proposes what promises the largest improvement: the "
            "fewest trials to a good one.",
            (
                Option("initial", "integer", 10, "Draws before the model decides.", 3, 1000),
                Option(
                    "warm_start",
                    "boolean",
                    False,
                    "Each of these is the one of 10 draws that a zero-cost proxy ranks highest (synflow), instead of any. "
                    "It prefers large networks: good where all train for equally many epochs.",
                ),
                POOL,
                *HALVING,
            ),
            tuple(SPACES),
        ),
        Entry(
            "reinforce",
            "NASNet's controller: a recurrent network writes architectures and learns from their scores by policy "
            "gradient (Zoph et al. 2018). Wants hundreds of candidates, better thousands.",
            (
                Option(
                    "algorithm",
                    "choice",
                    "ppo",
                    "PPO, as in NASNet, or plain REINFORCE, as before it.",
                    choices=("ppo", "reinforce"),
                ),
                Option(
                    "controller",
                    "choice",
                    "lstm",
                    "The published LSTM, or a table of probabilities as in NAS-Bench-201.",
                    choices=("lstm", "table"),
                ),
                Option("hidden", "integer", 32, "Units of the LSTM; the paper has 100.", 1, 256),
                Option("learning_rate", "number", 0.01, "Adam's; published for 20,000 candidates: 0.00035.", 1e-6, 1),
                Option("batch", "integer", 5, "Candidates per update; the paper has 20.", 1, 1000),
                Option("passes", "integer", 1, "Steps of PPO on each batch; plain REINFORCE takes one.", 1, 100),
                Option("clip", "number", 0.2, "How far one update of PPO may move a probability, as a share.", 0.01, 1),
                Option("entropy", "number", 0.001, "Reward for staying undecided; the paper has 0.00001.", 0, 10),
                Option("baseline_decay", "number", 0.95, "Memory of the average reward to compare with.", 0, 0.999),
                *HALVING,
            ),
            tuple(SPACES),
        ),
        Entry(
            "pnas",
            "Progressive search: begins with cells of one block and grows the most promising by a block at a time, as "
            "an ensemble of predictors ranks them (Liu et al. 2018). Give the space `tied` cells, as the paper does.",
            (
                Option("beam", "integer", 24, "Candidates trained at each size (K); the paper has 256.", 1, 10_000),
                Option(
                    "surrogate",
                    "choice",
                    "mlp",
                    "Predictors on the mean of a cell's blocks, or recurrent ones over its choices.",
                    choices=("mlp", "lstm"),
                ),
                *HALVING,
            ),
            ("cell",),
        ),
        Entry(
            "enas",
            "Trains one network whose weights all architectures of the space share, then the best of these on their own "
            "(Pham et al. 2018). Looks at hundreds for the price of a few.",
            (
                Option(
                    "form",
                    "choice",
                    "repaired",
                    "Fair training of all paths and a search among them, or the published interplay with a controller.",
                    choices=("repaired", "published"),
                ),
                Option(
                    "shortlist",
                    "integer",
                    20,
                    "Architectures, the best with shared weights, to be trained on their own as far as time allows.",
                    1,
                    100,
                ),
                Option(
                    "share",
                    "number",
                    0.5,
                    "Of the time for candidates, what the shared weights get; under a budget in trials, of 24 epochs.",
                    0.1,
                    0.9,
                ),
                Option("entropy", "number", 1e-4, "Reward of the published controller for staying undecided.", 0, 10),
            ),
            ("cell", "macro", "nb201"),
        ),
        Entry(
            "fixed",
            "No search: trains exactly the given `seeds`, and the best of them (or the floor) to the end.",
            (),
            tuple(SPACES),
        ),
    )
}

OBJECTIVES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("accuracy", "Share of pictures given their true label."),
        Entry(
            "balanced_accuracy", "Mean over the labels of the share recognised: small classes count like large ones."
        ),
        Entry("macro_f1", "Mean over the labels of F1, which asks for precision and recall alike."),
        Entry("log_loss", "How well the scores serve as probabilities (reported so that lower is better)."),
    )
}

BUDGET = Entry(
    "budget",
    "What a search may spend: exactly one of seconds and trials.",
    (
        Option("seconds", "number", 600.0, "Wall-clock of the whole search, final training included.", 30, 30 * 86_400),
        Option("trials", "integer", 10, "Trainings in all, floor and final included; repeatable.", 1, 100_000),
    ),
)

LIMITS = Entry(
    "limits",
    "What a network may have at most, whatever its score; all of them optional.",
    (
        Option("max_params", "integer", None, "Trainable numbers.", 100, 10**9),
        Option("max_flops", "integer", None, "Multiply-adds for one picture.", 1_000, 10**12),
        Option("max_size_mb", "number", None, "ONNX file, in 1,000,000 bytes.", 0.001, 10_000),
        Option(
            "max_latency_ms",
            "number",
            None,
            "Milliseconds for one picture in ONNX Runtime, measured on the worker's machine as the server would run it.",
            0.01,
            60_000,
        ),
    ),
)

PROXY = Entry(
    "proxy",
    "A smaller task on which candidates are compared; what is trained to the end sees everything.",
    (
        Option("fraction", "number", 1.0, "Share of the training pictures, of every label at least one.", 0.01, 1),
        Option(
            "side",
            "integer",
            None,
            "Largest training resolution in pixels, as far as the network allows; null leaves it as it is.",
            8,
            128,
        ),
    ),
)

EXPORTS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "onnx",
            "For ONNX Runtime and whatever else reads ONNX; any number of pictures at a time, labels as metadata.",
            (
                Option(
                    "preprocessing",
                    "boolean",
                    False,
                    "Take pictures of any height and width and resize them inside; otherwise as packed for training.",
                ),
            ),
        ),
        Entry(
            "onnx-int8",
            "ONNX in eight bits (QDQ: unsigned activations, signed weights by channel), calibrated on training pictures: "
            "smaller, and faster on processors.",
            (
                Option(
                    "max_accuracy_drop",
                    "number",
                    0.01,
                    "Accuracy on the validation pictures that it may lose; one that loses more is refused.",
                    0,
                    1,
                ),
            ),
        ),
        Entry(
            "pt2", "A torch.export program for PyTorch and what builds on it; any number of packed pictures at a time."
        ),
        Entry("safetensors", "The weights as safetensors and the genotype as JSON, zipped."),
        Entry(
            "python",
            "A folder, zipped: the network as one readable module, weights, labels, a command line, requirements.",
        ),
        Entry("docker", "A build context, zipped: an image that answers pictures over HTTP."),
        Entry("mlflow", "A model directory, zipped, that MLflow loads as onnx and as python_function."),
    )
}

FIXED = "fixed"
DEFAULT_SPACE = "stages"
DEFAULT_STRATEGY = "race"
DEFAULT_OBJECTIVE = "accuracy"


def entry(entries: Mapping[str, Entry], name: str, field: str) -> Entry:
    """The choice called `name`. Raises OptionError that lists what there is."""
    if name not in entries:
        raise OptionError(field, f"{name!r} is unknown; choose one of {', '.join(entries)}")
    return entries[name]


def check_pair(strategy: str, space: str) -> None:
    """Raises OptionError when the strategy cannot search the space; the message lists the strategies that can."""
    if space not in entry(STRATEGIES, strategy, "strategy").spaces:
        able = [name for name, other in STRATEGIES.items() if space in other.spaces]
        raise OptionError("strategy", f"{strategy!r} cannot search {space!r}; these can: {', '.join(able)}")


def check_seeds(strategy: str, seeds: int, trials: int | None, on_proxy: bool) -> None:
    """Raises OptionError where the strategy cannot do with so many seeds in a budget of so many trials (None: of time).

    on_proxy: candidates are compared on a smaller task, the floor once more among them."""
    if strategy != FIXED:
        return
    if not seeds:
        raise OptionError("seeds", f"{FIXED!r} trains given architectures; give at least one in seeds or from_trial")
    needed = seeds + (3 if on_proxy else 2)
    if trials is not None and trials < needed:
        floor = "the floor, the floor again on the proxy" if on_proxy else "the floor"
        raise OptionError("budget.trials", f"{trials} is too few for {seeds} seeds, {floor} and a final: {needed}")


def check_budget(budget: Mapping[str, Any]) -> None:
    """Raises OptionError unless the budget names exactly one of seconds and trials, within what is accepted."""
    given = [name for name in ("seconds", "trials") if budget.get(name) is not None]
    if len(given) != 1:
        raise OptionError("budget", f"give exactly one of seconds and trials, not {' and '.join(given) or 'neither'}")
    BUDGET.resolve({name: value for name, value in budget.items() if value is not None}, "budget")
