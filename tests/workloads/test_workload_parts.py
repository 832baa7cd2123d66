"""Parts that are apart, and what workloads do to their batches."""

import itertools

import pytest
import torch
from torch.nn.functional import pad

from autotune.benchmarks.workloads.autoencoder import DigitsVAE, fresh_noise
from autotune.benchmarks.workloads.data import digits
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.benchmarks.workloads.fine_tuning import FineTuneDigits, pretrained
from autotune.benchmarks.workloads.language import Windows, divide, evaluated
from autotune.benchmarks.workloads.modular import ModularAddition
from autotune.benchmarks.workloads.recurrent import SHORTEST, Lanes, LanguageLSTM
from autotune.benchmarks.workloads.supervised import Batches, split
from autotune.benchmarks.workloads.vision import SHIFT, Cifar, augment

DEVICE = torch.device("cpu")
TEXT = torch.arange(2000, dtype=torch.int32)  # each position tells where it is


def test_the_parts_of_a_split_are_disjoint_and_whole():
    train, parts = split(torch.arange(100), torch.arange(100), 10, 20)
    pieces = [train, *parts.values()]
    assert [len(inputs) for inputs, _ in pieces] == [50, 10, 20, 20]
    assert sorted(torch.cat([inputs for inputs, _ in pieces]).tolist()) == list(range(100))
    assert all(torch.equal(inputs, targets) for inputs, targets in pieces)


def test_batches_are_all_of_the_data_but_an_incomplete_one():
    batches = Batches((torch.arange(10), torch.arange(10)), 3, seed=0)
    seen = torch.cat([inputs for inputs, _ in batches])
    assert len(batches) == 3
    assert len(set(seen.tolist())) == 9


def test_the_parts_of_cifar_are_disjoint():
    training = Cifar().begin(0, DEVICE)
    rows = [{image.numpy().tobytes() for image in inputs} for inputs, _ in training.parts.values()]
    trained = {image.numpy().tobytes() for images, _ in training.batches for image in images}
    assert len(set().union(trained, *rows)) == len(trained) + sum(map(len, rows))


def test_no_two_parts_have_pairs_of_the_same_numbers():
    """a + b is b + a, to the network too."""
    training = ModularAddition().begin(0, DEVICE)
    rows = [{tuple(sorted(pair)) for pair in inputs.tolist()} for inputs, _ in training.parts.values()]
    trained = torch.cat([pairs for _ in range(3) for pairs, _ in training.batches])
    rows.append({tuple(sorted(pair)) for pair in trained.tolist()})
    assert all(not a & b for a, b in itertools.combinations(rows, 2))


@pytest.mark.parametrize("source", [Windows, Lanes])
def test_texts_to_train_on_and_to_evaluate_are_disjoint(source):
    train, held_out = divide(TEXT)
    parts = evaluated(held_out, 3, 5, length=8)
    seen = [set(torch.cat(batch).flatten().tolist()) for batch in parts.values()]
    seen.append({i for batch in source(train, 4, 8, seed=0) for i in torch.cat(batch).flatten().tolist()})
    assert all(not a & b for a, b in itertools.combinations(seen, 2))
    assert [len(inputs) for inputs, _ in parts.values()] == [3, 5, 5]


@pytest.mark.parametrize("source", [Windows, Lanes])
def test_targets_are_the_next_bytes(source):
    for inputs, targets in source(TEXT, 4, 8, seed=0):
        assert inputs.shape == targets.shape == (4, 8)
        assert torch.equal(inputs + 1, targets)


def test_lanes_go_on_where_they_ended():
    batches = list(Lanes(TEXT, 4, 8, seed=0))
    assert len(batches) == len(Lanes(TEXT, 4, 8, seed=0))
    for (before, _), (after, _) in itertools.pairwise(batches):
        assert torch.equal(before[:, -1] + 1, after[:, 0])


def test_an_lstm_carries_its_state_over_while_training_only():
    training = LanguageLSTM().begin(0, DEVICE)
    batch = next(iter(training.batches))
    first, second = training.loss(batch), training.loss(batch)
    assert first != second  # another state to begin with
    state = training.model.hidden.clone()
    assert state.abs().sum() > 0
    training.evaluate("selection")
    assert torch.equal(training.model.hidden, state)


def test_the_length_of_backpropagation_is_a_hyperparameter():
    workload = LanguageLSTM()
    training = workload.begin(0, DEVICE)
    length = training.hyperparameters(training.optimizer(1e-3))[-1]
    assert (length.name, length(), length.low, length.high) == (
        "sequence_length", workload.length, SHORTEST, workload.length
    )  # fmt: skip
    length.write(8)
    inputs, targets = length.actuator.apply(next(iter(training.batches)))
    assert inputs.shape == targets.shape == (workload.batch, 8)
    training.loss((inputs, targets)).backward()


def test_fine_tuning_begins_with_frozen_pretrained_layers():
    training = FineTuneDigits().begin(0, DEVICE)
    optimizer = training.optimizer(1e-2)
    frozen = next(h for h in training.hyperparameters(optimizer) if h.name == "frozen_layers")
    batch = next(iter(training.batches))
    pretrained_weight = pretrained()[0][0].weight
    assert frozen() == 2
    training.update(training.loss(batch), optimizer)
    assert torch.equal(training.model[0][0].weight, pretrained_weight)
    frozen.write(0)
    training.update(training.loss(batch), optimizer)
    assert not torch.equal(training.model[0][0].weight, pretrained_weight)
    assert torch.equal(FineTuneDigits().begin(1, DEVICE).model[0][0].weight, pretrained_weight)


def test_pretraining_saw_only_the_other_half():
    images, labels = digits()
    old = {image.numpy().tobytes() for image in images[labels < 5]}
    training = FineTuneDigits().begin(0, DEVICE)
    new = torch.cat([*(inputs for inputs, _ in training.parts.values()), *(x for x, _ in training.batches)])
    assert not old & {image.numpy().tobytes() for image in new}


def test_only_training_labels_are_noisy():
    clean, noisy = (DigitsMLP(wrong_labels=part).begin(0, DEVICE) for part in (0.0, 0.4))
    for part in clean.parts:
        assert torch.equal(clean.parts[part][1], noisy.parts[part][1])
    pairs = zip(clean.batches, noisy.batches, strict=True)
    wrong = torch.cat([(a[1] != b[1]).float() for a, b in pairs]).mean()
    assert 0.3 < wrong < 0.42  # a tenth of the labels drawn are right by chance


def test_the_noise_of_an_autoencoder_is_new_in_each_batch_and_fixed_in_evaluation():
    training = DigitsVAE().begin(0, DEVICE)
    (_, first), (_, second), *_ = training.batches
    assert not torch.equal(first, second)
    images, noise = training.parts["probe"]
    changed = fresh_noise((images, noise), torch.Generator().manual_seed(3))
    assert changed[0] is images
    assert not torch.equal(changed[1], noise)
    assert training.evaluate("probe") == training.evaluate("probe")


def test_augmented_images_are_moved_and_mirrored():
    images = torch.arange(8 * 3 * 6 * 6).reshape(8, 3, 6, 6).float() + 1
    labels = torch.arange(8)
    moved, same = augment((images, labels), torch.Generator().manual_seed(0))
    assert torch.equal(same, labels)
    found = set()
    for image, result in zip(images, moved, strict=True):
        padded = pad(image, (SHIFT,) * 4)
        steps = range(2 * SHIFT + 1)
        for down, across, mirrored in itertools.product(steps, steps, (False, True)):
            crop = padded[:, down : down + 6, across : across + 6]
            if torch.equal(crop.flip(2) if mirrored else crop, result):
                found.add((int(image[0, 0, 0]), down, across, mirrored))
    assert len({first for first, *_ in found}) == 8
    assert {mirrored for *_, mirrored in found} == {False, True}
    assert len({down for _, down, *_ in found}) > 2
