"""The run: four stages in one loop that yields what it does.

Every event from the first masks on leaves the state complete, so whoever iterates may stop at any of them: closing the
iterator writes a checkpoint, from which the run goes on as if it had not stopped. A step's events are not repeated
then: who records them stops where none is outstanding, at its `StepDone`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Parameter

from conceptloom.backbone import Backbone, telling_of_memory, tokenize, with_less_memory
from conceptloom.backbone.devices import is_out_of_memory
from conceptloom.concepts import BaseModelRecord, ConceptSet
from conceptloom.errors import DivergedError, PromptError, RunError
from conceptloom.learning.batches import Batch, Material, loss_layers, map_layers
from conceptloom.learning.checkpoint import Found, newest_checkpoint, require_same_run, save_checkpoint
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.draws import Draw, draw_batch
from conceptloom.learning.e_step import (
    MeanMaps,
    RunningAverages,
    collapsed,
    fresh_maps,
    initial_maps,
    map_weights,
    masks_from,
    same_thing_notice,
    same_things,
)
from conceptloom.learning.example import LearningExample, prepare_examples, require_inside
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.joint import joint_step
from conceptloom.learning.m_step import token_step, weight_step
from conceptloom.learning.objective import Objective
from conceptloom.learning.optimisation import Descent, limit_norms
from conceptloom.learning.phrases import template_prompt
from conceptloom.learning.prior import (
    PriorExample,
    class_prompts,
    drift_prompts,
    image_counts,
    own_images,
    prior_loss,
)
from conceptloom.learning.progress import (
    CheckpointSaved,
    DriftMeasured,
    Finished,
    MasksUpdated,
    Noticed,
    Progress,
    Resumed,
    SamplesDrawn,
    Stage,
    StepDone,
)
from conceptloom.learning.request import LearnRequest
from conceptloom.learning.samples import draw_images
from conceptloom.learning.state import LEARNING_STAGES, LearningState
from conceptloom.learning.weights import require_same_kind, trained_weights
from conceptloom.masks import MaskUpdate, all_keep
from conceptloom.pictures import square_frame, unframe_mask
from conceptloom.runs import RunLock, provenance

T = TypeVar("T")

CHECKPOINTS = "checkpoints"
SKIPPED_AT_MOST = 3
"""Steps in a row that may be not finite, as one too high for half precision is; after one more the run stops."""
ROW_NORM_LIMIT = 10.0
"""A placeholder row is at most so many times as long as the longest row of the vocabulary."""
SAME_MEANING = 0.99
"""Cosine above which two concepts' rows count as the same."""
THUMBNAIL_PX = 96
SAMPLES = 2
"""Sample images per preview."""


def run(
    request: LearnRequest, backbone: Backbone, folder: Path, *, resume: bool = False
) -> Generator[Progress, None, None]:
    """Learn what `request` asks for; yields `Progress` and ends with `Finished`, which holds the concept set.

    The base model is lent: its weights move where the configuration says so, and are as before once the iterator is
    exhausted or closed.

    Args:
        request: pictures, concepts, configuration.
        backbone: the base model.
        folder: run folder; only the lock and `checkpoints/` are written there.
        resume: go on from the newest complete checkpoint in `folder`, on the same kind of device to the same bits.

    Raises:
        RunError: nothing to resume, an unfinished run in the way, another run's checkpoint, a loss that is no
            longer finite.
        DeviceError: out of memory.
    """
    config = request.config
    dtype = str(backbone.dtype).removeprefix("torch.")
    description = {**request.description(), "base_model": backbone.fingerprint, "dtype": dtype}
    batch = f"batch_size {config.batch_size}"
    advice = (
        "free some and add --resume, or start again with a smaller batch_size or with train lora or kv"
        " (in a --config file)"
    )
    with RunLock(folder), telling_of_memory(backbone.device, batch, advice):
        found = newest_checkpoint(folder / CHECKPOINTS)
        require_resumable(folder, found, resume=resume)
        has_begun = found.checkpoint is not None and not found.checkpoint.is_start
        if found.checkpoint is not None and has_begun:
            require_same_run(found.checkpoint, description)
        material = prepare_material(request, backbone)
        # Before any weight moves, and before the starting set's are applied: these are the base model's own.
        words = request.class_words
        images = yield from own_images(backbone, image_counts(words, config), config)
        others = [image for image in images if image.prompt in drift_prompts(words)]
        prior = tuple(image for image in images if image.prompt in class_prompts(words))
        delta = None if request.start is None else request.start.weights
        with trained_weights(backbone, config, delta) as weights:
            rows = starting_rows(backbone, request.concepts, config, request.start)
            state = LearningState(rows, weights, material.latent_side, material.loss_side)
            owners = [concept.name for concept in request.concepts for _ in range(concept.num_vectors)]
            learner = _Learner(
                config, material, state, prior, tuple(owners), folder / CHECKPOINTS, description
            )
            if found.checkpoint is None or not has_begun:
                if weights is not None and request.left_alone:
                    tokens = " ".join(concept.placeholder_token for concept in request.left_alone)
                    learner.notices.append(
                        f"the weights move under {tokens} too, so they will be drawn a little differently: set train to"
                        " tokens in a --config file to leave them as they are"
                    )
                state.loss_on_others = learner.loss_on(others)
            else:
                try:
                    state.restore(found.checkpoint)
                except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                    if is_out_of_memory(error):
                        raise
                    raise RunError(
                        f"the checkpoint in {folder} does not fit its own run: delete the folder and start again"
                    ) from error
                if state.is_thrifty:
                    learner.be_thrifty()
            if resume:
                found = Found(None, found.skipped)  # lets go of a checkpoint that may be gigabytes
                names = [example.name for example in material.examples]
                masks = dict(zip(names, state.masks, strict=False))
                yield Resumed(*learner.position(), skipped=found.skipped, masks=masks)
            try:
                yield from learner.tokens()
                yield from learner.masks()
                yield from learner.em()
                yield from learner.joint()
            except GeneratorExit:
                save_checkpoint(learner.checkpoints, state.checkpoint(description))
                raise
            finally:
                if state.is_thrifty:
                    backbone.recompute_activations(False)
            for one, other in same_meanings(state.rows, owners):
                text = (
                    f"<{one}> and <{other}> have learned nearly the same meaning: show them in pictures apart"
                )
                yield Noticed(*learner.position(), text=text)
            drift: dict[str, Any] = {}
            before = state.loss_on_others
            after = None if before is None else learner.loss_on(others)
            if before is not None and after is not None:
                nouns = tuple(dict.fromkeys(example.prompt for example in others))
                drift = {"prompts": list(nouns), "before": before, "after": after}
                yield DriftMeasured(*learner.position(), prompts=nouns, before=before, after=after)
            yield Finished(*learner.position(), concept_set=_concept_set(request, backbone, state, drift))


@dataclass(eq=False)
class _Learner:
    """The four stages over one state."""

    config: LearnConfig
    material: Material
    state: LearningState
    prior: tuple[PriorExample, ...]
    owners: tuple[str, ...]
    """Name of the concept that each row belongs to."""
    checkpoints: Path
    description: Mapping[str, Any]
    notices: list[str] = field(default_factory=list)
    """What is to be said with the next event."""

    def tokens(self) -> Iterator[Progress]:
        """Stage 1: with `initializer` "inversion", steps of Eq. 1 under the full prompt; else nothing is left to do."""
        state = self.state
        state.enter("tokens", {"rows": self._row_descent()})
        for step in range(state.done["tokens"], self._total("tokens")):
            batch = self.material.batch(self._draws("tokens", step, all_concepts=True), None)
            objective = self._token_step(batch)
            self._heed(f"token step {step + 1}", objective)
            yield from self._step_done("tokens", objective)

    def masks(self) -> Iterator[Progress]:
        """Stage 2: first masks, from the user (gt) or from the tokens' cross-attention."""
        config, state, examples = self.config, self.state, self.material.examples
        state.enter("masks", {})
        if state.done["masks"]:
            return
        first: list[MeanMaps] = []
        updates: list[MaskUpdate] = []
        for picture, example in enumerate(examples):
            mean = None
            if example.given_masks is not None:
                updates.append(_given(example.given_masks))
            else:
                mean = self._within_memory(partial(self._initial_maps, picture))
                first.append(mean)
                updates.append(masks_from(example, mean, config, None))
                self.notices += [
                    same_thing_notice(*pair, example.name) for pair in same_things(example, mean, config)
                ]
            yield from self._noticed("masks", picture + 1)
            yield self._masks_updated("masks", picture + 1, picture, updates[-1], mean)
        for picture, update in enumerate(updates):
            self._take(picture, update)
        for picture, found in enumerate(first):
            if found.affinity is not None:
                state.affinities[picture] = found.affinity
        if self._averaging:
            backbone = self.material.backbone
            weights = map_weights(torch.arange(backbone.num_train_timesteps), backbone, config)
            usual = float(weights[weights > 0].mean())
            state.averages = RunningAverages.starting_from(first, config.running_average_decay, usual)
        state.done["masks"] = len(examples)
        yield from self._checkpoint_if_due("masks")

    def em(self) -> Iterator[Progress]:
        """Stage 3: M-step by M-step, with an E-step every `mask_update_every` steps."""
        config, state = self.config, self.state
        descents = {"rows": self._row_descent()}
        if state.weights is not None and config.weights == "alternate":
            state.weights.begin()
            descents["weights"] = self._descent([], state.weights.parameters, config.joint_lr)
        state.enter("em", descents)
        for step in range(state.done["em"], config.em_steps):
            if config.stop_when_calm is not None and state.calm_e_steps >= config.stop_when_calm:
                break
            draws = self._draws("em", step)
            batch = self.material.batch(draws, state.grids)
            objective = self._token_step(batch)
            objectives = [objective]
            if "weights" in state.descents:
                objectives.append(self._within_memory(partial(self._weight_step, batch, step)))
            self._heed(f"EM step {step + 1}", *objectives)
            if state.averages is not None and objective.maps is not None and objective.is_finite:
                _average(state.averages, draws, batch, objective.maps, self.material, config)
            updates: dict[int, tuple[MaskUpdate, MeanMaps]] = {}
            if config.mask_update_every is not None and (step + 1) % config.mask_update_every == 0:
                updates = self._e_step(step, draws)
                state.calm_e_steps = state.calm_e_steps + 1 if self._are_calm(updates) else 0
            for picture, (update, _) in updates.items():
                self._take(picture, update)
            events = [
                self._masks_updated("em", step + 1, picture, update, mean)
                for picture, (update, mean) in updates.items()
            ]
            yield from self._step_done("em", objective, events)

    def joint(self) -> Iterator[Progress]:
        """Stage 4: tokens and weights under frozen masks."""
        config, state = self.config, self.state
        if state.weights is None:
            return
        state.weights.begin()
        state.enter(
            "joint", {"joint": self._descent([state.rows], state.weights.parameters, config.joint_lr)}
        )
        for step in range(state.done["joint"], config.joint_steps):
            batch = self.material.batch(self._draws("joint", step), state.grids)
            objective = self._within_memory(partial(self._joint_step, batch, step))
            self._heed(f"joint step {step + 1}", objective)
            yield from self._step_done("joint", objective)

    def be_thrifty(self) -> None:
        """From now on one picture at a time goes through the U-Net, and activations are recomputed."""
        self.state.is_thrifty = True
        self.material = replace(self.material, is_thrifty=True)
        self.material.backbone.recompute_activations(True)

    def loss_on(self, images: Sequence[PriorExample]) -> float | None:
        """Eq. 1 on images of other nouns; None where there is none, or it is not finite."""
        if not images:
            return None
        backbone = self.material.backbone
        slowly = partial(prior_loss, backbone, images, at_once=1)
        loss = (
            slowly()
            if self.state.is_thrifty
            else with_less_memory(partial(prior_loss, backbone, images), slowly)
        )
        return loss if math.isfinite(loss) else None

    def position(self) -> tuple[Stage, int, int]:
        """The stage in which the last step was done, its steps done, and its steps."""
        done = [stage for stage in LEARNING_STAGES if self.state.done[stage]]
        stage = done[-1] if done else LEARNING_STAGES[0]
        return stage, self.state.done[stage], self._total(stage)

    def _total(self, stage: Stage) -> int:
        config = self.config
        return {
            "tokens": config.inversion_steps if config.initializer == "inversion" else 0,
            "masks": len(self.material.examples),
            "em": config.em_steps,
            "joint": config.joint_steps if config.train != "tokens" else 0,
        }[stage]

    @property
    def _averaging(self) -> bool:
        return self.config.mask_update_every is not None and self.config.e_step_source == "running_average"

    def _token_step(self, batch: Batch) -> Objective:
        def step() -> Objective:
            descent = self.state.descents["rows"]
            return token_step(
                self.material, self.state.rows, descent, batch, self.config, with_maps=self._averaging
            )

        return self._within_memory(step)

    def _weight_step(self, batch: Batch, step: int) -> Objective:
        state = self.state
        return weight_step(
            self.material, state.rows, state.descents["weights"], batch, self.prior, self.config, step
        )

    def _joint_step(self, batch: Batch, step: int) -> Objective:
        state = self.state
        return joint_step(
            self.material, state.rows, state.descents["joint"], batch, self.prior, self.config, step
        )

    def _initial_maps(self, picture: int) -> MeanMaps:
        return initial_maps(self.material, self.state.rows, picture, self.config)

    def _within_memory(self, work: Callable[[], T]) -> T:
        """`work()`; where memory runs out, once more in the thrifty way, to which the run then keeps."""
        if self.material.is_thrifty:
            return work()

        def thrifty() -> T:
            self.be_thrifty()
            self.notices.append(
                f"out of memory: from here on one of the {self.config.batch_size} pictures of a batch at a time,"
                " with recomputed activations; slower, and the same result up to rounding"
            )
            return work()

        return with_less_memory(work, thrifty)

    def _heed(self, where: str, *objectives: Objective) -> None:
        """Count and tell what went wrong in a step; raise `DivergedError` when too many in a row were not finite."""
        state = self.state
        if all(objective.is_finite for objective in objectives):
            state.skipped_in_a_row = 0
        else:
            state.skipped_steps += 1
            state.skipped_in_a_row += 1
            if state.skipped_in_a_row > SKIPPED_AT_MOST:
                raise DivergedError(
                    f"the loss is no longer finite at {where}, after {SKIPPED_AT_MOST} such steps that were skipped:"
                    " lower the rate or use --dtype float32, and start again"
                )
            self.notices.append(f"loss or gradient is not finite at {where}: nothing moved, going on")
        for row in limit_norms(state.rows.data, self.longest_row):
            name = self.owners[row]
            if name not in state.limited:
                self.notices.append(
                    f"the embedding of <{name}> has grown to {ROW_NORM_LIMIT:g} times the longest of the vocabulary at"
                    f" {where} and is held there: lower token_lr or joint_lr"
                )
            state.limited[name] = state.limited.get(name, 0) + 1

    @cached_property
    def longest_row(self) -> float:
        """The longest that a placeholder row may be."""
        return ROW_NORM_LIMIT * float(self.material.backbone.vocabulary_embeddings.norm(dim=1).max())

    def _noticed(self, stage: Stage, step: int) -> Iterator[Progress]:
        """What is to be said, once."""
        texts, self.notices = self.notices, []
        for text in texts:
            yield Noticed(stage, step, self._total(stage), text=text)

    def _row_descent(self) -> Descent:
        return self._descent([self.state.rows], [], self.config.token_lr)

    def _descent(self, rows: Sequence[Parameter], weights: Sequence[Parameter], lr: float) -> Descent:
        return Descent(rows, weights, lr, self.config.clip_norm, self.material.backbone.dtype)

    def _draws(self, stage: Stage, step: int, *, all_concepts: bool = False) -> tuple[Draw, ...]:
        sources = [example.source for example in self.material.examples]
        return draw_batch(
            self.config.seed,
            stage,
            step,
            self.config.batch_size,
            sources,
            self.material.backbone.num_train_timesteps,
            all_concepts=all_concepts,
        )

    def _e_step(self, step: int, draws: Sequence[Draw]) -> dict[int, tuple[MaskUpdate, MeanMaps]]:
        config, state = self.config, self.state
        updates = {}
        for picture, example in enumerate(self.material.examples):
            if state.averages is not None:
                mean = state.averages.maps(picture)
            elif config.e_step_timesteps == "own" and all(draw.picture != picture for draw in draws):
                continue
            else:
                mean = self._within_memory(partial(self._fresh_maps, picture, step, draws))
            if not np.isfinite(mean.maps).all():
                self.notices.append(
                    f"attention to '{example.name}' is not finite at EM step {step + 1}: its masks stay, going on"
                )
                continue
            mean = replace(mean, affinity=state.affinities.get(picture))
            updates[picture] = masks_from(example, mean, config, state.masks[picture]), mean
        return updates

    def _fresh_maps(self, picture: int, step: int, draws: Sequence[Draw]) -> MeanMaps:
        return fresh_maps(self.material, self.state.rows, picture, self.config, step, draws)

    def _are_calm(self, updates: Mapping[int, tuple[MaskUpdate, MeanMaps]]) -> bool:
        """Whether every mask of every picture is nearly the one before."""
        return len(updates) == len(self.state.masks) and all(
            all_keep(update.masks, self.state.masks[picture], self.config.calm_iou)
            for picture, (update, _) in updates.items()
        )

    def _take(self, picture: int, update: MaskUpdate) -> None:
        soft = self.config.attention_targets == "probabilities"
        self.state.set_masks(picture, update.masks, update.probabilities if soft else None)
        example = self.material.examples[picture]
        counts = self.state.rescues.setdefault(example.name, dict.fromkeys(_names(example), 0))
        for name, rescued in zip(_names(example), update.rescued, strict=True):
            counts[name] += int(rescued)

    def _masks_updated(
        self, stage: Stage, step: int, picture: int, update: MaskUpdate, mean: MeanMaps | None
    ) -> MasksUpdated:
        example = self.material.examples[picture]
        names = _names(example)
        return MasksUpdated(
            stage,
            step,
            self._total(stage),
            picture=example.name,
            concepts=names,
            masks=update.masks,
            maps=None if mean is None else mean.maps,
            overlap=tuple(float(overlap) for overlap in update.overlap),
            rescued=tuple(name for name, rescued in zip(names, update.rescued, strict=True) if rescued),
            collapsed=tuple(names[index] for index in collapsed(update.masks)),
        )

    def _step_done(
        self, stage: Stage, objective: Objective, events: Sequence[Progress] = ()
    ) -> Iterator[Progress]:
        self.state.done[stage] += 1
        yield from self._noticed(stage, self.state.done[stage])
        yield from events
        done, total = self.state.done[stage], self._total(stage)
        if self.config.preview_every and (done % self.config.preview_every == 0 or done == total):
            yield self._samples(stage, done, total)
        losses = {name: value for name, value in objective.parts.items() if math.isfinite(value)}
        yield StepDone(stage, done, total, losses=losses)
        yield from self._checkpoint_if_due(stage)

    def _samples(self, stage: Stage, done: int, total: int) -> SamplesDrawn:
        backbone, config = self.material.backbone, self.config
        prompt = self.material.validation_prompt
        seeds = [(config.seed, "preview", index) for index in range(SAMPLES)]
        images = draw_images(backbone, prompt, self.state.rows, self.material.placeholders, seeds, config)
        return SamplesDrawn(stage, done, total, prompt=prompt, images=images)

    def _checkpoint_if_due(self, stage: Stage) -> Iterator[Progress]:
        done, total = self.state.done[stage], self._total(stage)
        if done % self.config.checkpoint_every == 0 or done == total:
            folder = save_checkpoint(self.checkpoints, self.state.checkpoint(self.description))
            yield CheckpointSaved(stage, done, total, folder=folder)


def require_resumable(folder: Path, found: Found, *, resume: bool) -> None:
    """Raise `RunError` when a run is to go on and `folder` holds none, or is to begin where one is unfinished."""
    if resume and found.checkpoint is None:
        damaged = f" ({'; '.join(found.skipped)})" if found.skipped else ""
        raise RunError(
            f"nothing to resume in {folder}: no complete checkpoint{damaged}; start without --resume"
        )
    if not resume and found.checkpoint is not None and not found.checkpoint.is_start:
        raise RunError(
            f"{folder} holds a run that stopped after {found.checkpoint.position} steps:"
            " add --resume to go on, or delete the folder to start again"
        )


def require_learnable(request: LearnRequest, backbone: Backbone) -> None:
    """Refuse what `run` would refuse before its first step, without encoding a picture.

    Raises:
        ConfigError, PictureError, PromptError: with what is wrong and how to mend it.
    """
    config, start = request.config, request.start
    require_same_kind(config, None if start is None else start.weights)
    require_inside(request, backbone.size)
    map_layers(backbone.cross_attention_layers, config.layers)
    starting_rows(backbone, request.concepts, config, start)
    prompts = [request.full_prompt(entry) for entry in request.pictures]
    if config.preview_every and config.validation_prompt is not None:
        prompts.append(config.validation_prompt)
    for prompt in prompts:
        tokenize(backbone, prompt, request.placeholders)


def prepare_material(request: LearnRequest, backbone: Backbone) -> Material:
    """Examples and prompts; every prompt in use is tokenised now, so that a lost placeholder stops the run at once."""
    layers = backbone.cross_attention_layers
    material = Material(
        backbone=backbone,
        examples=prepare_examples(request, backbone),
        placeholders=request.placeholders,
        seed=request.config.seed,
        loss_layers=loss_layers(layers),
        map_layers=map_layers(layers, request.config.layers),
        validation_prompt=request.config.validation_prompt or _template_that_fits(request, backbone),
    )
    for example in material.examples:
        material.tokenized(example.full_prompt)
    if request.config.preview_every:
        material.tokenized(material.validation_prompt)
    return material


def _template_that_fits(request: LearnRequest, backbone: Backbone) -> str:
    """The template naming as many of the first concepts as the base model reads."""
    concepts = request.concepts
    while len(concepts) > 1:
        try:
            tokenize(backbone, template_prompt(concepts), request.placeholders)
            break
        except PromptError:
            concepts = concepts[:-1]
    return template_prompt(concepts)


def _average(
    averages: RunningAverages,
    draws: Sequence[Draw],
    batch: Batch,
    maps: Tensor,
    material: Material,
    config: LearnConfig,
) -> None:
    weights = map_weights(batch.timesteps, material.backbone, config)
    arrays = maps.cpu().numpy()
    for b, draw in enumerate(draws):
        if weights[b] == 0 or not np.isfinite(arrays[b]).all():
            continue
        averages.add(draw, arrays[b, : len(draw.concepts)], float(weights[b]), config.running_average_decay)


def _given(masks: npt.NDArray[np.bool_]) -> MaskUpdate:
    count = len(masks)
    return MaskUpdate(
        masks, masks.astype(np.float32), np.zeros(count, dtype=np.bool_), np.ones(count, dtype=np.float32)
    )


def same_meanings(rows: Tensor, owners: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of concepts whose rows (R, D) point the same way; `owners` names each row's concept."""
    names = list(dict.fromkeys(owners))
    means = {name: rows[[owner == name for owner in owners]].detach().mean(dim=0) for name in names}
    return [
        (one, other)
        for one, other in combinations(names, 2)
        if torch.cosine_similarity(means[one], means[other], dim=0) > SAME_MEANING
    ]


def _names(example: LearningExample) -> tuple[str, ...]:
    return tuple(concept.name for concept in example.concepts)


def _concept_set(
    request: LearnRequest, backbone: Backbone, state: LearningState, drift: Mapping[str, Any]
) -> ConceptSet:
    """What was learned; concepts of the starting set that the run does not name are bitwise as they were."""
    rows = state.rows.detach().cpu().split([concept.num_vectors for concept in request.concepts])
    embeddings = {concept.name: own.clone() for concept, own in zip(request.concepts, rows, strict=True)}
    masks: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
    thumbnails: dict[str, npt.NDArray[np.uint8]] = {}
    for entry, learned in zip(request.pictures, state.masks, strict=True):
        pixels = entry.picture.pixels
        for name, mask in zip(entry.concepts, learned, strict=True):
            masks[entry.picture.name, name] = unframe_mask(mask, (pixels.shape[0], pixels.shape[1]))
            thumbnails.setdefault(name, thumbnail(pixels, masks[entry.picture.name, name]))
    origin = {
        **provenance(),
        "drift": dict(drift),
        "rescues": state.rescues,
        "skipped_steps": state.skipped_steps,
        "limited_rows": state.limited,
        "out_of_memory": state.is_thrifty,
    }
    start = request.start
    if start is None:
        base = BaseModelRecord(backbone.name, backbone.fingerprint, backbone.version)
        merged = ConceptSet(request.concepts, embeddings, base, masks=masks, thumbnails=thumbnails)
    else:
        origin["learned_further_from"] = {"config": start.config, "provenance": start.provenance}
        merged = replace(start.with_concepts(request.concepts, embeddings, masks, thumbnails), folder=None)
    weights = merged.weights if state.weights is None else state.weights.delta()
    return replace(merged, weights=weights, config=request.config.model_dump(mode="json"), provenance=origin)


def thumbnail(pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The square around a concept, (96, 96, 3) sRGB.

    Args:
        pixels: (H, W, 3) sRGB.
        mask: (H, W); where it is empty the whole picture is shown.
    """
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    if len(ys) == 0:
        return square_frame(pixels, THUMBNAIL_PX)
    side = min(max(np.ptp(ys), np.ptp(xs)) + 1 + min(height, width) // 10, height, width)
    top = int(np.clip((ys.min() + ys.max() + 1 - side) // 2, 0, height - side))
    left = int(np.clip((xs.min() + xs.max() + 1 - side) // 2, 0, width - side))
    return square_frame(pixels[top : top + side, left : left + side], THUMBNAIL_PX)
