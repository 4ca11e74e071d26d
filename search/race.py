"""The schedule around a strategy: which training to start next so that the whole budget ends in one good network.

`plan` is a pure function of what the table of trials says, called anew whenever a trial ends. It keeps no state, so a
crash, a pause, more workers or a changed budget need no care: the next call sees the new numbers and plans from there.

Under a budget in seconds the fixed floor network is trained first, then candidates, all for the same seconds so that
their scores compare, then the best is trained with what is left. How much is left to the final depends on what the
floor's training showed: where the data asks for more passes than there is time, one long training is worth more than
many candidates; where time is plenty, the other way round. Under a budget in trials lengths are epochs, no clock is
looked at, and the plan depends on nothing but the seed and the scores.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Literal

from search.candidate import Candidate, Fidelity, Observation, Proxy, Purpose
from search.oneshot import SUPERNET
from search.space import Genotype, Json, Scalable, Space
from search.strategies import Strategy, estimates_of

if TYPE_CHECKING:
    from search.train import Point

# Budgets in trials.
EXPLORE_EPOCHS = 5.0  # of the floor and of each candidate: enough to rank them roughly
FINAL_EPOCHS = 20.0
# Of shared weights, times the share that the strategy asks for. An epoch shows the pictures to each operation of each
# place once, so half of them, the default, is twice what a candidate's operations see; all others train beside them.
SUPERNET_EPOCHS = 24.0
_ROUND = 4  # candidates asked for at once: so many workers are busy, and how many there are does not change the plan

# Budgets in seconds.
_MIN_TRIAL_S = 6.0  # below this, starting and validating outweigh training
_MAX_FLOOR_S = 55.0  # a deployable network within the first minute, whatever the budget
_START_S = 1.5  # from plan to first step, until trials have shown it
_DISPATCH_S = 0.5  # from plan to a worker's claim
_MIN_RESERVE_S, _RESERVE_SHARE, _MAX_RESERVE_SHARE = 4.0, 0.02, 0.2  # test evaluation, export and hand-over
_EVALUATION_EPOCHS = 0.15  # a pass over the test pictures, in epochs: a fifth as many, forward only, mirrored

# How many pictures a training wants to see. Beyond 'enough' returns are small, below 'least' scores are noise.
_FINAL_EPOCHS_ENOUGH, _FINAL_PICTURES_ENOUGH = 80.0, 200_000.0
_EXPLORE_EPOCHS_ENOUGH, _EXPLORE_PICTURES_ENOUGH = 12.0, 25_000.0
_EXPLORE_EPOCHS_LEAST, _EXPLORE_PICTURES_LEAST = 2.0, 40_000.0
_MAX_FINALS = 3  # a shortlist, when there is time to train each of them to the end

_MAX_FLOOR_ATTEMPTS = 2
_MAX_FAILURES_IN_A_ROW = 6  # candidates; then the space or the machine is at fault and the best so far is trained
_MAX_FAILED_FINALS = 4
_REFUSALS = 10  # candidates too slow for their time before the strategy counts as having no other
_TOO_SLOW = 4.0  # so many times slower than would do, by arithmetic, which is only half of what speed depends on
# A final starts from the weights of an earlier training when it will see the pictures a few times only, or when that
# training was not much shorter. On fashion_mnist_12k (9,000 pictures, floor networks; 3 pairs each, 1 at 18 epochs)
# weights of a fifth to a quarter as many epochs changed the accuracy after 2 epochs by +1.3 points, 4 +0.4, 8 +0.7,
# 18 -0.2; the log loss fell in all nine pairs up to 8 epochs, by 5 % on average, and rose by 6 % at 18.
_WARM_EPOCHS, _WARM_SHARE = 12.0, 0.5
_LEAST_FINAL_SHARE = 0.04  # of the budget; less time than that cannot better a network that had the rest
_LEAST_RUNG_S = 1.0  # of the shortest training, however many rungs were asked for
_HALVED_FROM = 12  # candidates of full length; with fewer, halving them is a lottery
_GROWS = 1.5  # a final's skeleton, where the time allows for so many times the arithmetic


WHOLE_TASK = Proxy()


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may spend: exactly one of wall-clock `seconds` and `trials` (floor and final included)."""

    seconds: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.trials is None):
            raise ValueError(f"a budget needs exactly one of seconds ({self.seconds}) and trials ({self.trials})")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"a budget of {self.seconds} seconds is none; give a number above 0")
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"a budget of {self.trials} trials is none; give 1 or more")


@dataclass(frozen=True, slots=True)
class Done:
    """A trial that ended. seconds: wall-clock it held its device. curve: its points, empty when it had none.
    over_limit: it failed, at once, since its network has more than the search allows. report: of shared weights; see
    `Observation`."""

    purpose: Purpose
    candidate: Candidate
    score: float | None
    seconds: float
    trial: str
    state: Literal["succeeded", "failed", "pruned"]
    curve: "Sequence[Point]" = ()
    over_limit: bool = False
    report: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A trial to run. warm_start: id of the trial whose weights it starts from where they are still kept, None for fresh
    ones."""

    purpose: Purpose
    candidate: Candidate
    seed: int
    warm_start: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What to start now. finished: nothing runs and nothing more is worth starting; time to hand over the best."""

    work: list[Work]
    finished: bool


def plan(
    space: Space,
    strategy: Strategy,
    floor: Genotype,
    budget: Budget,
    *,
    spent_s: float,
    done: Sequence[Done],
    running: Sequence[Work],
    slots: int,
    devices: int,
    seed: int,
    seeds: Sequence[Candidate] = (),
    proxy: Proxy = WHOLE_TASK,
) -> Turn:
    """The next trials. Tell the strategy what ended first (see `observations`); `plan` itself only asks.

    seeds: architectures to try before the strategy is asked for any. proxy: what candidates are compared on. spent_s:
    wall-clock worked on this search so far. done: what ended, older trials first. running: planned and not ended, queued
    ones included. slots: trials that could start at once. devices: those that work for this search.
    Returns at most `slots` trials, except under a budget in trials: then a round may be longer and the rest waits in
    the queue, since what is planned must not depend on how many workers there are.
    """
    table = _Table(space, strategy, floor, done, running, devices, seed, seeds, proxy)
    if budget.trials is not None:
        return _plan_trials(table, budget.trials)
    return _plan_seconds(table, budget.seconds or 0.0, spent_s, slots)


def observations(space: Space, done: Sequence[Done], proxy: Proxy = WHOLE_TASK) -> list[Observation]:
    """What a strategy over `space` should be told of these trials: candidates, the floor if it is of that space, and
    weights that the whole space shares.

    Final trainings are left out, and so is the floor's own where candidates are compared on a proxy: their scores come
    from another fidelity and would make every other look bad.
    """
    compared = {Purpose.EXPLORE, Purpose.FLOOR} if proxy == WHOLE_TASK else {Purpose.EXPLORE}
    return [
        Observation(each.candidate, each.score, each.seconds, each.trial, each.report)
        if each.state == "succeeded"
        else Observation(each.candidate, None, each.seconds, each.trial)
        for each in done
        if each.purpose is Purpose.SUPERNET
        or (each.purpose in compared and each.candidate.genotype.space == space.name)
    ]


def finalists(done: Sequence[Done]) -> list[tuple[Done, Done]]:
    """Finals with scores, each behind the trial that its architecture is from: what a short training, or one on a proxy,
    foretold and what came of it."""
    trials = {each.trial: each for each in done if each.state == "succeeded"}
    return [
        (trials[parent], each)
        for each in trials.values()
        if each.purpose is Purpose.FINAL and (parent := each.candidate.parent) is not None and parent in trials
    ]


def _networks(done: Sequence[Done]) -> list[Done]:
    """Trials of one architecture: those of shared weights say nothing of how fast and how good a network is."""
    return [each for each in done if each.purpose is not Purpose.SUPERNET]


def _purpose_of(candidate: Candidate) -> Purpose:
    return Purpose.SUPERNET if candidate.genotype.space == SUPERNET else Purpose.EXPLORE


@dataclass(frozen=True, slots=True)
class _Table:
    """What `plan` was given, and what both kinds of budget read from it."""

    space: Space
    strategy: Strategy
    floor: Genotype
    done: Sequence[Done]
    running: Sequence[Work]
    devices: int
    seed: int
    seeds: Sequence[Candidate]
    proxy: Proxy

    def ended(self, purpose: Purpose) -> list[Done]:
        return [each for each in self.done if each.purpose is purpose]

    def succeeded(self, purpose: Purpose) -> list[Done]:
        return [each for each in self.ended(purpose) if each.state == "succeeded"]

    def going(self, purpose: Purpose) -> list[Work]:
        return [each for each in self.running if each.purpose is purpose]

    @property
    def planned(self) -> int:
        return len(self.done) + len(self.running)

    def work(self, purpose: Purpose, candidate: Candidate, index: int, warm_start: str | None = None) -> Work:
        digest = hashlib.sha256(f"{self.seed}/{index}".encode()).digest()
        if candidate.inherit:
            warm_start = candidate.parent
        return Work(purpose, candidate, int.from_bytes(digest[:4], "big") >> 1, warm_start)

    def floor_is_due(self) -> bool:
        failed = len(self.ended(Purpose.FLOOR)) - len(self.succeeded(Purpose.FLOOR))
        return not (self.going(Purpose.FLOOR) or self.succeeded(Purpose.FLOOR) or failed >= _MAX_FLOOR_ATTEMPTS)

    def ask(self, count: int, planned: Sequence[Work]) -> list[Candidate]:
        """Up to `count` candidates: seeds that were not tried yet, in their order, then what the strategy proposes."""
        pending = [each.candidate for each in [*self.running, *planned]]
        tried = {each.candidate.genotype for each in self.done if each.purpose is Purpose.EXPLORE}
        tried.update(each.genotype for each in pending)
        asked = [each for each in self.seeds if each.genotype not in tried][:count]
        if len(asked) < count:
            asked += self.strategy.ask(count - len(asked), [*pending, *asked])
        return asked

    def refuse(self, candidate: Candidate, name: str) -> None:
        """Tell the strategy of a candidate that is not worth starting as of a failure. name: unlike others of this turn."""
        self.strategy.tell([Observation(candidate, None, 0.0, f"refused-{self.planned}-{name}", refused=True)])

    def is_seed(self, candidate: Candidate) -> bool:
        return any(each.genotype == candidate.genotype for each in self.seeds)

    def ranking(self, at: Fidelity) -> list[Candidate]:
        """Architectures worth a final training, the best first, as scored at the fidelity of candidates.

        Where the strategy models the space its estimates count: of many scores the highest is partly luck. Without any
        score at that fidelity whatever succeeded counts; without any success there is the floor, untried. The parent of
        each is the trial that it is known from.
        """
        tried = [
            each for each in _networks(self.done) if each.purpose is not Purpose.FINAL and each.state == "succeeded"
        ]
        comparable = [each for each in tried if each.candidate.fidelity.compares_with(at)] or tried
        floor = self.floor.digest()
        digests = {each.trial: each.candidate.genotype.digest() for each in comparable}
        worth = self._worth(comparable)
        comparable.sort(key=lambda each: (-worth[each.trial], digests[each.trial] != floor, digests[each.trial]))
        best_first: dict[str, Candidate] = {}
        for each in comparable:
            candidate = replace(each.candidate, parent=each.trial)
            best_first.setdefault(digests[each.trial], candidate)
        return list(best_first.values()) or [Candidate(self.floor, at)]

    def _worth(self, trials: Sequence[Done]) -> dict[str, float]:
        own = [each for each in trials if each.candidate.genotype.space == self.space.name]
        estimates = estimates_of(self.strategy, [each.candidate.genotype for each in own]) if own else None
        worth = {each.trial: _score(each) for each in trials}
        if estimates is not None:
            worth |= {each.trial: estimate for each, estimate in zip(own, estimates, strict=True)}
        return worth

    def _origin(self, final: Candidate) -> str:
        """Digest of the architecture that a final was made from; its own may be in a larger skeleton."""
        known = next((each for each in self.done if each.trial == final.parent), None)
        return (final if known is None else known.candidate).genotype.digest()

    def finals(self) -> list[Done]:
        """Those that ended and tell of their architecture: not those whose larger skeleton alone was over the limits."""
        return [
            each
            for each in self.ended(Purpose.FINAL)
            if not each.over_limit or each.candidate.genotype.digest() == self._origin(each.candidate)
        ]

    def final(self, length: Fidelity, at: Fidelity, planned: Sequence[Work], shortlist: int) -> Work:
        """The next final training: the best that has had none, and when the shortlist has, the best of them again.

        Where a larger skeleton proved to be beyond the search's limits the architecture has its turn once more as it is.
        """
        ended = self.finals()
        had = Counter(self._origin(each.candidate) for each in ended)
        had.update(self._origin(w.candidate) for w in [*self.going(Purpose.FINAL), *planned])
        trained = self.succeeded(Purpose.FINAL)
        failed = {self._origin(each.candidate) for each in ended if each.state != "succeeded"}
        ranking = self.ranking(at)
        sound = [each for each in ranking if each.genotype.digest() not in failed] or ranking
        fresh = [each for each in sound[:shortlist] if not had[each.genotype.digest()]]
        if trained and not fresh:
            chosen = max(trained, key=_score).candidate
            genotype = chosen.genotype
        else:
            chosen = fresh[0] if fresh else min(sound, key=lambda each: had[each.genotype.digest()])
            genotype = self._grown(chosen, length)
        candidate = Candidate(genotype, length, chosen.parent)
        warm_start = self._warm_start(genotype, length, planned)
        return self.work(Purpose.FINAL, candidate, self.planned + len(planned), warm_start)

    def _grown(self, chosen: Candidate, length: Fidelity) -> Genotype:
        """The architecture in a larger skeleton, where candidates are small ones of a fixed skeleton and the time would
        show a final more pictures than it has use for (as NASNet's cells are found on a proxy).

        How large: from the arithmetic per second that its own training reached.
        """
        genotype, space = chosen.genotype, self.space
        known = next((each for each in self.done if each.trial == chosen.parent and each.curve), None)
        pace = None if known is None else _Pace.of([known])
        if (
            known is None
            or pace is None
            or length.seconds is None
            or genotype.space == self.floor.space
            or genotype.space != space.name
        ):
            return genotype  # the floor's space has sizes of its own to search
        refused = {self._origin(each.candidate) for each in self.ended(Purpose.FINAL) if each.over_limit}
        if not isinstance(space, Scalable) or genotype.digest() in refused:
            return genotype
        side = space.recipe(genotype).side
        area = (side / min(side, known.candidate.fidelity.side or side)) ** 2  # a final's pictures to those of a proxy
        growth = length.seconds / (area * pace.enough_s)
        return space.scaled(genotype, int(growth * space.cost(genotype).flops)) if growth >= _GROWS else genotype

    def _warm_start(self, genotype: Genotype, length: Fidelity, planned: Sequence[Work]) -> str | None:
        """The best weights there are of this architecture, where starting from them pays: see `_WARM_EPOCHS`.

        None as well when another final starts from them right now; two of one kind should differ.
        """
        digest = genotype.digest()
        taken = {each.warm_start for each in [*self.running, *planned] if each.purpose is Purpose.FINAL}
        trials = [
            each
            for each in self.done
            if each.candidate.genotype.digest() == digest and each.state == "succeeded" and each.curve
        ]
        best = max(trials, key=lambda each: (_score(each), each.curve[-1].epoch), default=None)
        if best is None or best.trial in taken:
            return None
        had = best.curve[-1].epoch * best.candidate.fidelity.fraction
        epochs = length.epochs or (length.seconds or 0.0) * had / max(best.curve[-1].seconds, 1e-3)
        return best.trial if epochs <= max(_WARM_EPOCHS, had / _WARM_SHARE) else None


def _score(done: Done) -> float:
    return -math.inf if done.score is None else done.score


def _lasting(
    candidate: Candidate, proxy: Proxy, *, seconds: float | None = None, epochs: float | None = None
) -> Candidate:
    """The candidate at that length or, on a lower rung, its share; pictures and resolution are those that the strategy
    asked for, of the proxy's."""
    rung = candidate.fidelity.rung
    fidelity = proxy.of(
        candidate.fidelity,
        seconds=None if seconds is None else max(_LEAST_RUNG_S, round(seconds * rung, 1)),
        epochs=None if epochs is None else epochs * rung,
    )
    return replace(candidate, fidelity=fidelity)


def _plan_trials(table: _Table, trials: int) -> Turn:
    left = trials - table.planned
    length = table.proxy.at(epochs=EXPLORE_EPOCHS)
    work: list[Work] = []
    if left < 1 or table.running:
        pass  # spent, or the round is not over: what comes next depends on all of it
    elif table.floor_is_due():
        whole = Fidelity(epochs=EXPLORE_EPOCHS)
        work = [table.work(Purpose.FLOOR, Candidate(table.floor, whole), table.planned)]
    elif left > 2 and (again := _floor_again(table, length, [])):
        work = [table.work(Purpose.EXPLORE, again, table.planned)]
    elif left > 1 and (asked := _round(table, left - 1)):
        work = [table.work(_purpose_of(each), each, table.planned + number) for number, each in enumerate(asked)]
    elif left == 1 or not table.ended(Purpose.FINAL):
        work = [table.final(Fidelity(epochs=FINAL_EPOCHS), length, [], shortlist=1)]
    return Turn(work, finished=not work and not table.running)


def _round(table: _Table, room: int) -> list[Candidate]:
    """The next candidates, of so many at most that may still be tried. Shared weights are refused where nothing they
    lead to could be tried after them."""
    for number in range(_REFUSALS):
        asked = table.ask(min(_ROUND, room), [])
        refused = [each for each in asked if len(asked) == room and _purpose_of(each) is Purpose.SUPERNET]
        if not refused:
            epochs = {Purpose.SUPERNET: SUPERNET_EPOCHS, Purpose.EXPLORE: EXPLORE_EPOCHS}
            return [_lasting(each, table.proxy, epochs=epochs[_purpose_of(each)]) for each in asked]
        table.refuse(refused[0], str(number))
    return []


@dataclass(frozen=True, slots=True)
class _Pace:
    """What the first training showed: seconds of one pass over the training pictures, and how many these are."""

    epoch_s: float
    pictures: float

    @classmethod
    def of(cls, done: Sequence[Done]) -> "_Pace | None":
        """From the floor when it succeeded, so that later trials do not move the plan; else from whatever did."""
        trials = [
            each
            for each in _networks(done)
            if each.state == "succeeded" and each.curve and min(each.curve[-1].epoch, each.curve[-1].images_per_s) > 0
        ]
        trials.sort(key=lambda each: each.purpose is not Purpose.FLOOR)
        if not trials:
            return None
        last, fraction = trials[0].curve[-1], trials[0].candidate.fidelity.fraction
        epoch_s = max(last.seconds, 1e-3) / (last.epoch * fraction)
        return cls(epoch_s, max(1.0, last.images_per_s * epoch_s))

    def seconds_of(self, pictures: float) -> float:
        return pictures / self.pictures * self.epoch_s

    def least_s(self, fraction: float) -> float:
        """Seconds before which a candidate on that share of the pictures cannot be judged."""
        return self.seconds_of(min(_EXPLORE_EPOCHS_LEAST * self.pictures * fraction, _EXPLORE_PICTURES_LEAST))

    @property
    def enough_s(self) -> float:
        """Seconds after which more pictures teach a final little."""
        return self.seconds_of(max(_FINAL_EPOCHS_ENOUGH * self.pictures, _FINAL_PICTURES_ENOUGH))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a budget in seconds is divided, as far as the trials so far allow to say.

    All in seconds of worked time. end_s: when training must be over. explore_until_s: when candidates give way to the
    final. explore_s: length of each candidate's training; None when exploring would take more than it can give.
    start_s: from plan to first step. finals: how many architectures are trained to the end, or more of them where
    devices would be idle.
    """

    end_s: float
    floor_s: float
    explore_s: float | None
    explore_until_s: float
    start_s: float
    finals: int


def schedule(
    budget_s: float,
    done: Sequence[Done],
    devices: int,
    seeds: int = 0,
    expected: "_Pace | None" = None,
    proxy: Proxy = WHOLE_TASK,
) -> Schedule:
    """The division of `budget_s`. A function of its arguments; only the first training's pace moves it much.

    seeds: how many architectures the user asked for; candidates are shortened so that these find room. expected: the
    pace, as long as no training has shown it. proxy: what candidates are compared on.

    The final's share follows from how often it could see the pictures if it had all the time, compared with what is
    enough: 80 % where that is a quarter (a slow machine, many pictures: one good training beats many candidates),
    57 % where it is just enough, 30 % from five times enough on. Until the pace is known, 60 %.
    """
    pace = _Pace.of(done) or expected
    reserve_s = max(_MIN_RESERVE_S, _RESERVE_SHARE * budget_s)
    if pace is not None:
        reserve_s = max(reserve_s, min(2.0 + _EVALUATION_EPOCHS * pace.epoch_s, _MAX_RESERVE_SHARE * budget_s))
    end_s = max(0.0, budget_s - reserve_s)
    explore_s = max(_MIN_TRIAL_S, 14.0 * (end_s / 116.0) ** 0.7)  # 14 s of 2 min, 27 of 5, 44 of 10, 154 of 60
    floor_s = round(min(explore_s, _MAX_FLOOR_S), 1)
    start_s = _start_s(done)
    if pace is None:
        return Schedule(end_s, floor_s, floor_s, 0.4 * end_s, start_s, finals=1)

    enough_s = pace.enough_s
    share = min(0.8, max(0.3, 0.574 - 0.163 * math.log(end_s / enough_s))) if end_s > 0 else 0.8
    until_s = (1 - share) * end_s
    finals = min(_MAX_FINALS, max(1, int(share * end_s / (2 * enough_s))))

    candidates_see = pace.pictures * proxy.fraction
    ranks_s = pace.seconds_of(max(_EXPLORE_EPOCHS_ENOUGH * candidates_see, _EXPLORE_PICTURES_ENOUGH))
    least_s = pace.least_s(proxy.fraction)
    # Twice what ranks, since candidates may be slower than the floor.
    explore_s = max(min(explore_s, 2 * ranks_s), least_s, _MIN_TRIAL_S)
    floor = next((each for each in done if each.purpose is Purpose.FLOOR and each.state == "succeeded"), None)
    window_s = until_s - (floor.seconds if floor is not None else 0.0)
    if seeds:
        fits_s = max(1, devices) * window_s / (seeds + 1) - start_s  # one more: the floor again, at this length
        explore_s = max(min(explore_s, fits_s), _MIN_TRIAL_S)
    explore_s = _settled(round(explore_s, 1), done, proxy)
    comparable = floor is not None and floor.candidate.fidelity.compares_with(proxy.at(seconds=explore_s))
    fitting = round(max(1, devices) * window_s / (explore_s + start_s))
    # Where they do not compare the floor is trained anew beside them, and needs two rivals.
    worth_it = bool(seeds) or fitting >= (1 if comparable else 3)
    return Schedule(end_s, floor_s, explore_s if worth_it else None, until_s, start_s, finals)


def rungs_for(
    budget: Budget, *, pictures: int, epoch_s: float, devices: int, eta: int, proxy: Proxy = WHOLE_TASK
) -> int:
    """Rungs of successive halving (Li et al. 2018, arXiv:1810.05834) that a search has the time for; 1 is off.

    Another rung for each `eta` times as many candidates as are needed to choose from at all, as long as the shortest
    training is one that can be judged. pictures: to learn from. epoch_s: expected seconds of one pass over them. A
    budget in trials counts a short training like a long one, so that halving has nothing to give.
    """
    if budget.seconds is None:
        return 1
    division = schedule(budget.seconds, [], devices, expected=_Pace(epoch_s, pictures), proxy=proxy)
    if division.explore_s is None:
        return 1
    fitting = max(1, devices) * division.explore_until_s / (division.explore_s + division.start_s)
    rungs = 1
    while fitting >= _HALVED_FROM * float(eta) ** (rungs - 1) and division.explore_s >= _MIN_TRIAL_S * eta**rungs:
        rungs += 1
    return rungs


def _settled(explore_s: float, done: Sequence[Done], proxy: Proxy) -> float:
    """The length nearby that trials have had already, so that scores compare: of candidates before an extension, else
    of the floor."""
    candidates, floors = (
        [
            round(each.candidate.fidelity.seconds / each.candidate.fidelity.rung, 1)
            for each in done
            if each.purpose is purpose and each.state == "succeeded" and each.candidate.fidelity.seconds is not None
        ]
        for purpose in (Purpose.EXPLORE, Purpose.FLOOR)
    )
    if candidates:
        usual_s = max(Counter(candidates).items(), key=lambda each: (each[1], each[0]))[0]
        if usual_s <= explore_s <= 2.5 * usual_s:
            return usual_s
    if floors and proxy == WHOLE_TASK and Fidelity(seconds=floors[0]).compares_with(Fidelity(seconds=explore_s)):
        return floors[0]
    return explore_s


def _start_s(done: Sequence[Done]) -> float:
    """From plan to first step: what recent trials took beyond the training they were given."""
    beyond = [
        max(0.0, each.seconds - each.candidate.fidelity.seconds)
        for each in _networks(done)
        if each.state == "succeeded" and each.candidate.fidelity.seconds is not None
    ]
    return _DISPATCH_S + (median(beyond[-5:]) if beyond else _START_S)


def _plan_seconds(table: _Table, budget_s: float, spent_s: float, slots: int) -> Turn:
    division = schedule(budget_s, table.done, table.devices, len(table.seeds), proxy=table.proxy)
    left_s = division.end_s - spent_s - division.start_s
    work: list[Work] = []
    while len(work) < slots and left_s >= _MIN_TRIAL_S:
        step = _next(table, division, spent_s, left_s, work)
        if step is None:
            break
        work.append(step)
    idle = not work and not table.running
    return Turn(work, finished=idle and (slots > 0 or left_s < _MIN_TRIAL_S))


def _next(table: _Table, division: Schedule, spent_s: float, left_s: float, work: Sequence[Work]) -> Work | None:
    """The next trial for one free device, None when nothing is worth starting. work: what this turn starts already."""
    index = table.planned + len(work)
    if table.floor_is_due() and not work:
        length = Fidelity(seconds=min(division.floor_s, left_s))
        return table.work(Purpose.FLOOR, Candidate(table.floor, length), index)
    window_s = division.explore_until_s - spent_s
    if division.explore_s is not None and _exploring(table, division.explore_s, window_s):
        length = table.proxy.at(seconds=division.explore_s)
        candidate = _floor_again(table, length, work) or _affordable(table, division.explore_s, window_s, work)
        if candidate is not None:
            return table.work(_purpose_of(candidate), candidate, index)
        if any(each.purpose is not Purpose.FINAL for each in [*table.running, *work]):
            return None  # what they bring may let the strategy go on
    return _next_final(table, division, left_s, work)


def _exploring(table: _Table, explore_s: float, window_s: float) -> bool:
    """Whether another candidate fits, half of it at least, and candidates have not kept failing."""
    tried = [each for each in table.ended(Purpose.EXPLORE) if not each.over_limit]  # the others took no time
    ended = tried[-_MAX_FAILURES_IN_A_ROW:]
    hopeless = len(ended) == _MAX_FAILURES_IN_A_ROW and all(each.state == "failed" for each in ended)
    return window_s >= explore_s / 2 and not hopeless


def _floor_again(table: _Table, length: Fidelity, work: Sequence[Work]) -> Candidate | None:
    """The floor's architecture as a candidate, where its own trial was of another length: an equal race needs it."""
    digest = table.floor.digest()
    trials = [each.candidate for each in table.done if each.purpose is not Purpose.FINAL]
    trials += [each.candidate for each in [*table.running, *work]]
    raced = [each for each in trials if each.genotype.digest() == digest and each.fidelity.compares_with(length)]
    return None if raced or not table.succeeded(Purpose.FLOOR) else Candidate(table.floor, length)


def _affordable(table: _Table, seconds: float, window_s: float, work: Sequence[Work]) -> Candidate | None:
    """The next candidate that gets to see enough pictures in its time to be judged, or was asked for by the user.

    The others are told as failures. How fast a candidate will be is guessed from the floor's pace and both networks'
    arithmetic, so only those that are slower by far are refused. Shared weights get a share of the time for candidates,
    and are refused where that is less than what one network needs to be judged, or leaves no time to train any that they
    point to.
    """
    pace = _Pace.of(table.done)
    for number in range(_REFUSALS):
        asked = table.ask(1, work)
        if not asked:
            return None
        if _purpose_of(asked[0]) is Purpose.SUPERNET:
            if any(each.purpose is Purpose.FLOOR for each in [*table.running, *work]):
                return None  # its pace will tell how much time there is for candidates
            shared = _lasting(asked[0], table.proxy, seconds=window_s)
            shared_s = shared.fidelity.seconds or 0.0
            if shared_s >= seconds and window_s - shared_s - _start_s(table.done) >= seconds / 2:
                return shared
            table.refuse(asked[0], f"{len(work)}-{number}")
            continue
        candidate = _lasting(asked[0], table.proxy, seconds=seconds)
        if pace is None or table.floor.space != table.space.name or table.is_seed(candidate):
            return candidate
        slower = table.space.cost(candidate.genotype).flops / max(1, table.space.cost(table.floor).flops)
        fidelity = candidate.fidelity
        if slower * pace.least_s(fidelity.fraction) * fidelity.rung <= _TOO_SLOW * seconds:
            return candidate
        table.refuse(asked[0], f"{len(work)}-{number}")
    return None


def _next_final(table: _Table, division: Schedule, left_s: float, work: Sequence[Work]) -> Work | None:
    trained = len(table.succeeded(Purpose.FINAL))
    if len(table.finals()) - trained >= _MAX_FAILED_FINALS or not _anything_trained(table):
        return None
    going = len([each for each in [*table.running, *work] if each.purpose is Purpose.FINAL])
    to_come = max(1, math.ceil((division.finals - trained - going) / max(1, table.devices)))  # on this device
    length_s = left_s if to_come == 1 else left_s / to_come - division.start_s
    least_s = max(2 * _MIN_TRIAL_S, _LEAST_FINAL_SHARE * division.end_s) if trained or going else _MIN_TRIAL_S
    if length_s < least_s:
        return None
    at = table.proxy.at(seconds=division.explore_s) if division.explore_s else Fidelity(seconds=division.floor_s)
    shortlist = max(division.finals, table.devices)
    return table.final(Fidelity(seconds=round(length_s, 1)), at, work, shortlist)


def _anything_trained(table: _Table) -> bool:
    """Whether there is something to train on, or else some hope: the floor is tried once more as a final."""
    return any(each.state == "succeeded" for each in _networks(table.done)) or not table.running
