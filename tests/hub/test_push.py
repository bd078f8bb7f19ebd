"""A push takes the figures along: card, metadata and report are on the Hub beside the tensors."""

import json

from tests.hub_client import run_client
from tests.hub_server import HubServer

PUBLISHER = """
from dataclasses import replace
from transformers import AutoModelForMaskedLM
import hf_quant
from tests.integration.tiny import tiny_model
from tests.reporting.samples import drop_report

hf_quant.quantize(tiny_model("bert"), "int8", progress=False).save_pretrained("bert-int8")
hf_quant.write_model_card("bert-int8", replace(drop_report("bert-int8"), reference="bert"))
AutoModelForMaskedLM.from_pretrained("bert-int8").push_to_hub("owner/bert-int8")
"""


def test_a_pushed_checkpoint_has_its_figures_on_its_card_and_beside_it(tmp_path):
    with HubServer(tmp_path / "blobs", tokens={"owner-token": "owner"}) as hub:
        run_client(PUBLISHER, hub, token="owner-token", home=tmp_path)
        files = hub.files("owner/bert-int8")
    card = files["README.md"].decode()
    assert "+0.40 pt (-0.20 to +1.10)" in card and "model-index" in card
    assert 'from_pretrained("owner/bert-int8")' in card
    assert len(json.loads(files["hf_quant_report.json"])["drops"]) == 1
    assert str(tmp_path) not in card + files["hf_quant_report.json"].decode()
