"""Shapes and counts of the nets; the module's metrics against whole-set figures; schedule, threshold, checkpoint."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from recipes.arrhythmia import metrics
from recipes.arrhythmia.model import ChipNet, ECGClassifier, IEGMNet, MissedVARate


def data(n=37, length=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3 == 0
    x = torch.randn(n, 1, length, generator=generator) + 0.3 * y[:, None, None]
    return TensorDataset(x, y.long())


def trainer(tmp_path, **kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=tmp_path, **{"enable_checkpointing": False, **quiet, **kwargs})


def test_chipnet_is_the_specified_net():
    net = ChipNet()
    assert sum(p.numel() for p in net.parameters()) == 25_682
    weights = {name: tuple(p.shape) for name, p in net.named_parameters() if p.ndim > 1}
    assert weights == {
        "conv1.weight": (16, 1, 7),
        "conv2.weight": (32, 16, 5),
        "conv3.weight": (64, 32, 5),
        "conv4.weight": (64, 64, 3),
        "fc.weight": (2, 64),
    }


def test_chipnet_equals_its_formula():
    net = ChipNet().eval()
    for i in range(1, 5):
        torch.nn.init.normal_(getattr(net, f"bn{i}").running_mean, std=0.3)
        torch.nn.init.uniform_(getattr(net, f"bn{i}").running_var, 0.5, 2.0)
    x = torch.randn(3, 1, 64)
    h = x.double()
    for i in range(1, 5):
        w, bn = getattr(net, f"conv{i}").weight.double(), getattr(net, f"bn{i}")
        padded = F.pad(h, (w.shape[2] // 2,) * 2).unfold(2, w.shape[2], 1)
        h = torch.einsum("nclk,ock->nol", padded, w)
        h = (h - bn.running_mean[:, None]) / (bn.running_var[:, None] + 1e-5).sqrt()
        h = torch.stack([h.relu()[..., ::2], h.relu()[..., 1::2]]).amax(0)
    expected = h.mean(2) @ net.fc.weight.double().T + net.fc.bias
    torch.testing.assert_close(net(x).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 512), (2, 2, 512), (2, 1, 8)])
def test_chipnet_refuses_other_inputs(shape):
    with pytest.raises(ValueError, match="batch, 1, length"):
        ChipNet()(torch.zeros(shape))


def test_iegmnet_layers_and_refusal():
    net = IEGMNet()
    kinds = [type(layer).__name__ for layer in net.features]
    assert kinds == ["Conv1d", "ReLU", "BatchNorm1d"] * 5
    convs = [layer for layer in net.features if isinstance(layer, torch.nn.Conv1d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs] == [
        (1, 3, 6, 2),
        (3, 5, 5, 2),
        (5, 10, 4, 2),
        (10, 20, 4, 2),
        (20, 20, 4, 2),
    ]
    with pytest.raises(ValueError, match="window=1250"):
        net(torch.zeros(2, 1, 512))


@pytest.mark.parametrize("batch_size", [1, 5, 37])
@pytest.mark.parametrize("threshold", [0.5, 0.4])
def test_epoch_metrics_do_not_depend_on_the_batch_size(tmp_path, batch_size, threshold):
    torch.manual_seed(0)
    model, dataset = ECGClassifier(threshold=threshold), data()
    logged = trainer(tmp_path).validate(model, DataLoader(dataset, batch_size), verbose=False)[0]
    x, y = dataset.tensors
    with torch.no_grad():
        logits = model.eval()(x)
    c = metrics.confusion(y, (logits.softmax(1)[:, 1] >= threshold).numpy())
    assert set(logged) == {"val/loss", "val/acc", "val/f2", "val/missed_va"}
    assert logged["val/loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert logged["val/acc"] == pytest.approx(c.acc)
    assert logged["val/f2"] == pytest.approx(c.f2)
    assert logged["val/missed_va"] == pytest.approx(c.missed_va)


def test_test_metrics_have_their_own_names_and_forget_the_last_epoch(tmp_path):
    model, fit = ECGClassifier(), trainer(tmp_path)
    first = fit.test(model, DataLoader(data(), 8), verbose=False)[0]
    fit.test(model, DataLoader(data(seed=5, n=20), 8), verbose=False)
    assert set(first) == {"test/loss", "test/acc", "test/f2", "test/missed_va"}
    assert fit.test(model, DataLoader(data(), 8), verbose=False)[0] == first


def test_missed_va_rate():
    metric = MissedVARate()
    metric.update(torch.tensor([0, 1]), torch.tensor([1, 0]))
    metric.update(torch.tensor([1, 1, 0]), torch.tensor([1, 1, 0]))
    assert metric.compute().item() == pytest.approx(1 / 3)
    metric.reset()
    metric.update(torch.tensor([1]), torch.tensor([0]))
    assert metric.compute() == 0


def test_predict_gives_va_probability_with_and_without_labels(tmp_path):
    model, dataset = ECGClassifier(), data(n=6)
    with_labels = torch.cat(trainer(tmp_path).predict(model, DataLoader(dataset, 4)))
    alone = torch.cat(trainer(tmp_path).predict(model, DataLoader(dataset.tensors[0], 4)))
    torch.testing.assert_close(with_labels, model.eval()(dataset.tensors[0]).softmax(1)[:, 1].detach())
    torch.testing.assert_close(with_labels, alone)


class _Rates(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_one_cycle_spans_the_run(tmp_path):
    rates = _Rates()
    model = ECGClassifier(lr=1e-2)
    trainer(tmp_path, max_epochs=10, callbacks=[rates]).fit(model, DataLoader(data(), 10))
    assert len(rates.seen) == 40
    assert max(rates.seen) == pytest.approx(1e-2)
    assert int(np.argmax(rates.seen)) == 5
    assert rates.seen[-1] < 1e-6


def test_training_learns_a_simple_task(tmp_path):
    torch.manual_seed(0)
    x = 0.1 * torch.randn(128, 1, 32)
    y = torch.arange(128) % 2
    x += y[:, None, None] * torch.sin(torch.arange(32.0))
    model = ECGClassifier()
    fit = trainer(tmp_path, max_epochs=5)
    fit.fit(model, DataLoader(TensorDataset(x, y), 16, shuffle=True), DataLoader(TensorDataset(x, y), 16))
    assert fit.callback_metrics["val/acc"] > 0.95


def test_endless_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_epochs or max_steps"):
        trainer(tmp_path, max_epochs=-1).fit(ECGClassifier(), DataLoader(data(), 10))


def test_threshold_is_checked_and_travels_with_the_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="threshold"):
        ECGClassifier(threshold=1.0)
    model = ECGClassifier()
    model.threshold = 0.3
    with pytest.raises(ValueError, match="threshold"):
        model.threshold = 0.0
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(model, DataLoader(data(), 10))
    fit.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    again = ECGClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.threshold == pytest.approx(0.3)
    torch.testing.assert_close(again.eval()(data().tensors[0]), model.eval()(data().tensors[0]))
    assert [key for key in model.state_dict() if not key.startswith("net.")] == ["decision_threshold"]


def test_unknown_arch_is_refused():
    with pytest.raises(ValueError, match="chipnet"):
        ECGClassifier(arch="resnet")
    assert isinstance(ECGClassifier(arch="iegmnet").net, IEGMNet)
