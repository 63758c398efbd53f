"""The criterion spy on plain modules and on unchanged training steps."""

import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn import functional as F

from lightning_cim.chip.criterion import CRITERIA, CriterionCall, CriterionSpy, criterion_call
from tests.helpers.boring import FLAVOURS, Boring, data, make, variant

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 1.0, 2.0]], requires_grad=True)
TARGET = torch.tensor([0, 1, 1])


def spied(function, *args, **kwargs):
    with CriterionSpy(nn.Linear(1, 1)) as spy:
        loss = function(*args, **kwargs)
    return spy.calls, loss


@pytest.mark.parametrize(
    ("module", "function", "target"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), F.cross_entropy, TARGET),
        (nn.NLLLoss(reduction="sum"), F.nll_loss, TARGET),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), F.binary_cross_entropy_with_logits, torch.ones(3, 3)),
        (nn.MSELoss(), F.mse_loss, torch.ones(3, 3)),
        (nn.L1Loss(), F.l1_loss, torch.ones(3, 3)),
        (nn.SmoothL1Loss(beta=0.5), F.smooth_l1_loss, torch.ones(3, 3)),
        (nn.HuberLoss(delta=2.0), F.huber_loss, torch.ones(3, 3)),
        (nn.MultiMarginLoss(), F.multi_margin_loss, TARGET),
    ],
)
def test_sees_each_loss_module_with_its_arguments(module, function, target):
    calls, loss = spied(module, LOGITS, target)
    [call] = calls
    assert call.function is function
    assert call.function in CRITERIA
    assert call.logits is LOGITS
    assert torch.equal(call.loss(), loss)
    assert torch.equal(loss, module(LOGITS, target))


def test_sees_keywords():
    [call], _ = spied(F.cross_entropy, input=LOGITS, target=TARGET, weight=torch.ones(3))
    assert call.target is TARGET
    assert call.arguments["weight"].tolist() == [1, 1, 1]


def test_passes_metrics_by():
    calls, _ = spied(F.cross_entropy, LOGITS.detach(), TARGET)
    assert not calls


def test_nll_normalises_other_logits():
    call = CriterionCall(F.nll_loss, F.log_softmax(LOGITS, 1), TARGET)
    combined = call.logits / 4
    torch.testing.assert_close(call.loss(combined), F.cross_entropy(LOGITS / 4, TARGET))


def test_hits():
    assert CriterionCall(F.cross_entropy, LOGITS, TARGET).hits().tolist() == [True, True, False]
    ignored = CriterionCall(F.cross_entropy, LOGITS, torch.tensor([0, -1, 2]), {"ignore_index": -1})
    assert ignored.hits().tolist() == [True, True]
    soft = CriterionCall(F.cross_entropy, LOGITS, F.one_hot(TARGET, 3).float())
    assert soft.hits().tolist() == [True, True, False]
    binary = CriterionCall(
        F.binary_cross_entropy_with_logits, torch.tensor([1.0, -1.0, 2.0]), torch.tensor([1.0, 0, 0])
    )
    assert binary.hits().tolist() == [True, True, False]
    with pytest.raises(ValueError, match="mse_loss has no right"):
        CriterionCall(F.mse_loss, LOGITS, LOGITS).hits()


def test_replaces_the_loss():
    with CriterionSpy(nn.Linear(1, 1), replace=lambda call: call.loss(call.logits / 2)):
        loss = F.cross_entropy(LOGITS, TARGET)
    assert torch.equal(loss, F.cross_entropy(LOGITS / 2, TARGET))


def test_stops_even_where_the_module_catches_exceptions():
    reached = False
    with CriterionSpy(nn.Linear(1, 1), stop=True) as spy:
        try:
            F.cross_entropy(LOGITS, TARGET)
        except Exception:
            pytest.fail("swallowed")
        reached = True
    assert not reached
    assert spy.call.logits is LOGITS


def test_other_errors_go_through():
    with pytest.raises(KeyError), CriterionSpy(nn.Linear(1, 1), stop=True):
        raise KeyError("theirs")


def test_two_criteria_are_an_error_where_one_is_replaced():
    with (
        pytest.raises(ValueError, match=r"two loss functions.*cross_entropy, mse_loss.*cim_logits_and_target"),
        CriterionSpy(nn.Linear(1, 1), replace=CriterionCall.loss),
    ):
        _ = F.cross_entropy(LOGITS, TARGET) + F.mse_loss(LOGITS, torch.ones(3, 3))


def test_probabilities_are_an_error():
    with pytest.raises(ValueError, match=r"binary_cross_entropy, whose input is no logit.*cim_logits_and_target"):
        spied(F.binary_cross_entropy, LOGITS.sigmoid(), torch.ones(3, 3))


def test_nothing_seen_is_an_error():
    with CriterionSpy(nn.Linear(1, 1)) as spy:
        _ = LOGITS.sum()
    with pytest.raises(ValueError, match=r"calls no loss function of torch.*cim_logits_and_target"):
        spy.check()


class Metrics(Boring):
    """Updates metrics and logs before the loss, and would do more after it."""

    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.MetricCollection(
            {
                "top": torchmetrics.classification.MulticlassAccuracy(3),
                "recall": torchmetrics.classification.MulticlassRecall(3),
            }
        )
        self.kept = torchmetrics.CatMetric()
        self.after = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.accuracy(logits, y)
        self.kept.update(logits.detach())
        self.log("train/acc", self.accuracy["top"])
        loss = F.cross_entropy(logits, y)
        self.after += 1
        return loss


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_training_step_leaves_no_trace(flavour):
    model = make(flavour, Metrics)
    batch = next(iter(data()))
    model.accuracy.update(torch.eye(3), torch.tensor([0, 1, 1]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen_before = model.accuracy.compute()
    attributes = dict(model.__dict__)
    model.train()
    first, second = criterion_call(model, batch), criterion_call(model, batch)
    assert first.function is F.cross_entropy
    assert first.logits.requires_grad
    assert first.target is batch[1]
    assert model.after == 0
    assert {name: torch.equal(value, before[name]) for name, value in model.state_dict().items()} == dict.fromkeys(
        before, True
    )
    assert model.accuracy.compute() == seen_before
    assert not model.kept.update_called
    assert model.__dict__ == attributes
    assert not torch.equal(first.logits, second.logits)  # dropout: the random state is the caller's


def test_metrics_work_on_after_a_silent_pass():
    model = make(FLAVOURS[0], Metrics)
    model.eval()
    batch = next(iter(data()))
    criterion_call(model, batch)
    model.accuracy(model(batch[0]), batch[1])
    model.accuracy(model(batch[0]), batch[1])
    right = (model(batch[0]).argmax(1) == batch[1]).float()
    expected = torch.stack([right[batch[1] == c].mean() for c in batch[1].unique()]).mean()
    torch.testing.assert_close(model.accuracy.compute()["recall"], expected)


def test_plain_modules():
    net = nn.Linear(3, 2)
    call = criterion_call(net, (torch.ones(4, 3), torch.zeros(4, dtype=torch.long)))
    assert call.function is F.cross_entropy
    assert criterion_call(net, (torch.ones(4, 3), torch.zeros(4, 2))).function is F.mse_loss
    with pytest.raises(ValueError, match=r"must be \(inputs, target\) pairs, got Tensor"):
        criterion_call(net, torch.ones(4, 3))


class OwnLoss(Boring):
    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def cim_logits_and_target(self, batch):
        return self(batch[0]), batch[1]


def test_own_loss_is_asked_for_logits():
    model = make(FLAVOURS[0], OwnLoss)
    call = criterion_call(model, next(iter(data())))
    assert call.function is F.cross_entropy
    assert call.logits.shape == (4, 3)


def test_own_loss_without_the_method_is_told_its_name():
    class Silent(OwnLoss):
        cim_logits_and_target = property()

    model = variant(FLAVOURS[0], Silent)()
    with pytest.raises(ValueError, match="cim_logits_and_target"):
        criterion_call(model, next(iter(data())))


def test_offer_of_something_else_is_refused():
    class Wrong(OwnLoss):
        def cim_logits_and_target(self, batch):
            return {"logits": self(batch[0])}

    with pytest.raises(ValueError, match=r"must return .*got dict"):
        criterion_call(make(FLAVOURS[0], Wrong), next(iter(data())))
