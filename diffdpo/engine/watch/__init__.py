"""What is watched while a run trains: signs of trouble in its metrics, and held-out figures."""
