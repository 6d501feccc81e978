"""The Gradio Space: classify, look inside a run, fine-tune in the browser."""
