"""The miniature: a tiny policy really trained with GRPO on a search task, healthy or into a real death spiral."""
