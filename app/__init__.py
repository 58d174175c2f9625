"""The dashboard. Nobody imports it; `streamlit run app/main.py` starts it."""
