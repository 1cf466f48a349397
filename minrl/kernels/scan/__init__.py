"""The linear recurrence h_t = a_t h_(t-1) + b_t: in torch, compiled for a CPU and for a GPU."""
