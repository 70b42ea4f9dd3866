"""The model's text goes in; reasoning, tool calls and content come out, and a thinking budget is kept.

Knows the published chat format and JSON schemas; nothing of SGLang, tensors, tokenizers or HTTP. `grammar.ReplyParser`
is the whole parser, `reasoning.ReasoningStage` and `tools.ToolStage` its halves, `budget.BudgetAutomaton` the budget.
"""
