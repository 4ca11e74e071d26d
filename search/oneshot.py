"""One-shot searches as data: the candidate that stands for the shared weights of a whole space."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from search.space import Genotype, InvalidGenotypeError, Json

SUPERNET = "supernet"  # space of the genotypes that stand for one
FORMS = ("repaired", "published")
_MOST_SHORTLISTED = 100


@dataclass(frozen=True, slots=True)
class SupernetGenes:
    """of: name of the space whose networks share their weights. form: one of FORMS. shortlist: architectures to report.
    entropy: weight of the controller's entropy bonus (published form)."""

    of: str
    form: str = FORMS[0]
    shortlist: int = 5
    entropy: float = 1e-4

    def to_genotype(self) -> Genotype:
        return Genotype.of(SUPERNET, asdict(self))

    @classmethod
    def read(cls, genotype: Genotype) -> "SupernetGenes":
        """Raises InvalidGenotypeError for what is no supernet."""
        genes: dict[str, Any] = genotype.genes
        names = {field.name for field in fields(cls)}
        if genotype.space != SUPERNET or set(genes) != names:
            raise InvalidGenotypeError(
                f"genes of {genotype.space!r} are {', '.join(sorted(genes))}; a supernet needs {', '.join(sorted(names))}"
            )
        if genes["form"] not in FORMS:
            raise InvalidGenotypeError(f"form is {genes['form']!r}; possible: {', '.join(FORMS)}")
        shortlist = genes["shortlist"]
        if isinstance(shortlist, bool) or not isinstance(shortlist, int) or not 1 <= shortlist <= _MOST_SHORTLISTED:
            raise InvalidGenotypeError(f"shortlist is {shortlist!r}; possible: 1 to {_MOST_SHORTLISTED}")
        return cls(**genes)


@dataclass(frozen=True, slots=True)
class Shortlisted:
    """An architecture and its score with shared weights."""

    genotype: Genotype
    shared_score: float

    def to_json(self) -> dict[str, Json]:
        return {"genotype": self.genotype.to_json(), "shared_score": self.shared_score}

    @classmethod
    def from_json(cls, document: Mapping[str, Json]) -> "Shortlisted":
        return cls(Genotype.from_json(document["genotype"]), float(document["shared_score"]))
