"""What each feature must do to each kind of layer; a function a column.

All but ``crossbar`` look at the layer's own parameters: that they deviate where they are mapped, that they do not where
the layer is digital, and that they are what they were afterwards (the learning rate is 0).
"""

import torch

import lightning_cim as cim
from lightning_cim.chip.mapping import output_dim
from tests.helpers.boring import FLAVOURS, make, make_trainer
from tests.support.cells import DIGITAL
from tests.support.layers import Classifier

SIGMA, FLAVOUR = cim.Gaussian(0.2), FLAVOURS[0]
ONE_EPOCH = {"max_epochs": 1, "num_sanity_val_steps": 0}


def injection(kind):
    """``VariationInjection``."""
    model = _fitted(kind, cim.VariationInjection(SIGMA, kind.mapping))
    return _deviated(kind, model)


def trice(kind):
    """``RightCensoredTraining``."""
    callback = cim.RightCensoredTraining(SIGMA, chips=2, k=50, monitor="val/loss", mapping=kind.mapping)
    model = _fitted(kind, callback)
    assert len(callback.history.rows) == 1
    return _deviated(kind, model)


def ovf(kind):
    """``NegativeFeedback(mode="ovf")``: three more passes a step."""
    model = _fitted(kind, cim.NegativeFeedback(SIGMA, mode="ovf", beta=0.1, mapping=kind.mapping))
    assert model.passes >= 4 * 2, f"{model.passes} passes in two steps"
    return _deviated(kind, model)


def irs(kind):
    """``NegativeFeedback(mode="irs")``: a head on the layer."""
    callback = cim.NegativeFeedback(SIGMA, mode="irs", beta=0.1, stages=["layer"], mapping=kind.mapping)
    model = _fitted(kind, callback)
    assert callback.state_dict()["heads"]
    assert not [name for name in model.state_dict() if not name.startswith(("layer.", "head."))]
    return _deviated(kind, model)


def precision(kind):
    """``MixedPrecision``: at most four values of two bits for each output."""
    model = _fitted(kind, cim.MixedPrecision(2, activation_bits=None, mapping=kind.mapping))
    for name in kind.names():
        axis = output_dim(model.get_submodule(name.rpartition(".")[0]))
        outputs = model.seen[-1][name].transpose(0, axis).flatten(1)
        assert all(row.unique().numel() <= 4 for row in outputs), name
    return _changed(kind, model)


def sparsity(kind):
    """``StructuredSparsity("2:4")``: half of the weights are zero."""
    model = _fitted(kind, cim.StructuredSparsity("2:4", mapping=kind.mapping))
    for name in kind.names():
        assert (model.seen[-1][name] == 0).float().mean() >= 0.4, name
    return _changed(kind, model)


def correctnet(kind):
    """``CorrectNetReg``: the penalty reaches the layer's gradient."""
    gradients = []
    for callbacks in ([], [cim.CorrectNetReg(1.0, kind.mapping)]):
        model = _fitted(kind, *callbacks)
        gradients.append(model.gradients[0])
    touched = [name for name in gradients[0] if not torch.equal(gradients[0][name], gradients[1][name])]
    assert set(touched) & set(model.watched) == set(kind.names()), touched
    return None if kind.mapped else DIGITAL


def evaluation(kind):
    """``evaluate_chips``: every chip differs, and the module is clean again."""
    model = _warm(kind)
    before = _copied(model)
    found = cim.evaluate_chips(
        make_trainer(FLAVOUR), model, kind.data(), variation=SIGMA, chips=2, mapping=kind.mapping, progress=False
    )
    assert len(set(found.of("test/loss"))) == 2
    _assert_same(model, before)
    return _on_chip(kind, model)


def worst_case(kind):
    """``worst_case``: the found deviation stays within its bound."""
    model = _warm(kind)
    before = _copied(model)
    judged = [(x, model(x).argmax(1)) for x, _ in kind.data()]  # all right, so that there is something to lose
    found = cim.worst_case(model, judged, bound=0.5, steps=3, mapping=kind.mapping, progress=False)
    _assert_same(model, before)
    stored = cim.chip_weights(model, found.chip)
    for name in kind.names():
        bound = 0.5 * before[name].abs().max()
        assert 0 < (stored[name] - before[name]).abs().max() <= bound * (1 + 1e-5)
    return _on_chip(kind, model)


def program(kind):
    """``program``: verified weights are closer to their target than those only written."""
    model = _warm(kind)
    before = _copied(model)
    found = cim.program(
        model,
        kind.data(),
        SIGMA,
        verify_fraction=0.5,
        granularity=0.5,
        chips=1,
        mapping=kind.mapping,
        residual=cim.Gaussian(0.001),
        progress=False,
    )
    _assert_same(model, before)
    chip = found.chip(0)
    stored = cim.chip_weights(model, chip)
    assert chip.verified
    for name, mask in chip.verified.items():
        error = (stored[name] - before[name]).abs() / before[name].abs().max()
        assert not mask.any() or error[mask].max() < 0.01, name
    assert set(kind.names()) == set(stored) & set(model.watched)
    if not kind.mapped:
        return DIGITAL
    method = found.curve.about["sensitivity"].partition(",")[0]
    return {"recursion": None}.get(method, method.replace("_", "-"))


def shared_block(kind):
    """``TinySharedBlock``: the block trains behind the layer, which lies on one chip."""
    model = _warm(kind)
    before = _copied(model)
    callback = cim.TinySharedBlock(SIGMA, chip=1, at=["layer"], lr=0.1, mapping=kind.mapping, monitor="val/loss")
    make_trainer(FLAVOUR, callbacks=[callback], **ONE_EPOCH).fit(model, kind.data(), kind.data())
    block = dict(model.named_parameters())
    assert any("tiny_shared_block" in name and parameter.abs().sum() > 0 for name, parameter in block.items())
    assert callback.report is not None
    _assert_same(model, before)
    for name in kind.names():
        first, second = (held[name] for held in model.seen[-2:])
        assert torch.equal(first, second), "another chip"
    return _changed(kind, model)


def crossbar(kind):
    """``Crossbar``: the layer has ADCs, and the module's outputs are those of rough converters."""
    model = _warm(kind)
    (x, _), *_ = kind.data()
    plain = model.eval()(x).detach()
    callback = cim.Crossbar(rows=2, adc_bits=3, dac_bits=3, mapping=kind.mapping)
    trainer = make_trainer(FLAVOUR, callbacks=[callback], **ONE_EPOCH)
    trainer.fit(model.train(), kind.data(), kind.data())
    seen = []
    hook = model.layer.register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    clean = model.layer.eval()(x).detach()
    trainer.test(model, kind.data(), verbose=False)
    hook.remove()
    assert torch.equal(model.eval()(x), plain) or isinstance(model.layer, torch.nn.BatchNorm1d)
    if not kind.mapped:
        assert torch.equal(seen[1], clean)
        return DIGITAL
    assert not torch.equal(seen[1], clean)
    return None


def export(kind):
    """``export_state_dict`` of a chip: loads strictly, and holds that chip's weights."""
    model = _warm(kind)
    chip = cim.ChipPopulation(model, SIGMA, mapping=kind.mapping)[1]
    exported = cim.export_state_dict(model, chip=chip)
    other = _warm(kind)
    other.load_state_dict(exported, strict=True)
    for name, value in cim.chip_weights(model, chip).items():
        assert torch.equal(other.get_parameter(name), value)
    (x, _), *_ = kind.data()
    with cim.on_chip(model.eval(), chip):
        assert torch.equal(other.eval()(x), model(x))
    return _on_chip(kind, model)


TRAINING = {
    "injection": injection,
    "TRICE": trice,
    "NeFT ovf": ovf,
    "NeFT irs": irs,
    "CorrectNet": correctnet,
    "precision": precision,
    "sparsity": sparsity,
}
DEPLOYMENT = {
    "chips": evaluation,
    "worst case": worst_case,
    "program": program,
    "TSB": shared_block,
    "crossbar": crossbar,
    "export": export,
}


def _fitted(kind, *callbacks):
    model = make(FLAVOUR, Classifier, kind=kind)
    before = _copied(model)
    make_trainer(FLAVOUR, callbacks=callbacks, **ONE_EPOCH).fit(model, kind.data(), kind.data())
    _assert_same(model, before)
    return model


def _warm(kind):
    """A model after an epoch at learning rate 0: lazy layers have a shape, batch norms their statistics."""
    model = make(FLAVOUR, Classifier, kind=kind)
    make_trainer(FLAVOUR, **ONE_EPOCH).fit(model, kind.data(), kind.data())
    return model.eval()


def _copied(model):
    lazy = torch.nn.parameter.is_lazy
    return {name: value.detach().clone() for name, value in model.named_parameters() if not lazy(value)}


def _assert_same(model, before):
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in before.items()), "not clean"


def _changed(kind, model):
    """The last two steps computed with changed parameters where they are mapped, with clean ones elsewhere."""
    for name in model.watched:
        same = [torch.equal(held[name], model.get_parameter(name)) for held in model.seen[-2:]]
        assert not any(same) if name in kind.names() else all(same), name
    return None if kind.mapped else DIGITAL


def _deviated(kind, model):
    """As :func:`_changed`, and by another chip in every step."""
    for name in kind.names():
        first, second = (held[name] for held in model.seen[-2:])
        assert not torch.equal(first, second)
    return _changed(kind, model)


def _on_chip(kind, model):
    stored = cim.chip_weights(model, cim.ChipPopulation(model, SIGMA, mapping=kind.mapping)[0])
    assert set(kind.names()) == set(stored) & set(model.watched)
    return None if kind.mapped else DIGITAL
