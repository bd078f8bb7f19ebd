"""How much a quantized model loses: two models on the same examples, compared example by example."""

from hf_quant.registry import Registry

TASKS = Registry(
    "task",
    {
        "text-classification": "hf_quant.evaluation.tasks.text_classification:TextClassification",
        "token-classification": "hf_quant.evaluation.tasks.token_classification:TokenClassification",
        "question-answering": "hf_quant.evaluation.tasks.question_answering:QuestionAnswering",
        "masked-lm": "hf_quant.evaluation.tasks.masked_lm:MaskedLM",
        "causal-lm": "hf_quant.evaluation.tasks.causal_lm:CausalLM",
        "sentence-similarity": "hf_quant.evaluation.tasks.sentence_similarity:SentenceSimilarity",
    },
)
"""Names of tasks to their classes. ``lm-eval:NAME`` stands for the task NAME of the package `lm-eval`."""

METRICS = Registry(
    "metric",
    {
        "accuracy": "hf_quant.evaluation.metrics.accuracy:Accuracy",
        "f1": "hf_quant.evaluation.metrics.f1:F1",
        "f1-macro": "hf_quant.evaluation.metrics.f1:MacroF1",
        "f1-micro": "hf_quant.evaluation.metrics.f1:MicroF1",
        "f1-weighted": "hf_quant.evaluation.metrics.f1:WeightedF1",
        "matthews": "hf_quant.evaluation.metrics.matthews:Matthews",
        "pearson": "hf_quant.evaluation.metrics.pearson:Pearson",
        "spearman": "hf_quant.evaluation.metrics.spearman:Spearman",
        "squad": "hf_quant.evaluation.metrics.squad:Squad",
        "entity-f1": "hf_quant.evaluation.metrics.entity_f1:EntityF1",
        "perplexity": "hf_quant.evaluation.metrics.perplexity:Perplexity",
        "bits-per-byte": "hf_quant.evaluation.metrics.bits_per_byte:BitsPerByte",
        "log-loss": "hf_quant.evaluation.metrics.log_loss:LogLoss",
    },
)
"""Names of metrics that need no network to their classes. Any other name is loaded by the package `evaluate`."""
