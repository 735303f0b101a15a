"""Placeholder tokens, and the concept set: what learning leaves and generation reads."""

from conceptloom.backbone.adapters import WeightsDelta
from conceptloom.concepts.concept import Concept, ConceptKind, validate_concept_name
from conceptloom.concepts.concept_set import BaseModelRecord, ConceptSet

__all__ = [
    "BaseModelRecord",
    "Concept",
    "ConceptKind",
    "ConceptSet",
    "WeightsDelta",
    "validate_concept_name",
]
