"""Kernels of the recurrences and of whole blocks: by operation, in torch and compiled, with their tests.

| operation            | in torch                    | CPU                       | GPU         | tests                |
| -------------------- | --------------------------- | ------------------------- | ----------- | -------------------- |
| linear recurrence    | `scan/reference`, `chunked` | `scan/cpu`, `cpu_complex` | `scan/cuda` | `test_scan`          |
| minGRU, minLSTM      | `scan/gates`                | `scan/cpu`                | `scan/cuda` | `test_cpu_kernel`    |
| LSTM                 | `lstm/reference`            | `lstm/cpu`                | torch's     | `test_lstm_scan`     |
| GRU                  | `gru/reference`             | `gru/cpu`                 | torch's     | `test_gru_scan`      |
| sLSTM                | `slstm/reference`           | `slstm/cpu`               |             | `test_recurrences`   |
| mLSTM, Mamba2, RWKV6 | `matrix/reference`          | `matrix/cpu`              |             | `test_recurrences`   |
| Mamba                | `selective/reference`       | `selective/cpu`           |             | `test_recurrences`   |
| S4D                  | `s4d/reference`             | `s4d/cpu`                 |             | `test_recurrences`   |
| mLSTM's output       | `gated_norm/reference`      | `gated_norm/cpu`          |             | `test_gated_norm`    |
| short convolution    | `backbone/convolution`      | `convolution/cpu`         |             | `test_recurrences`   |
| block stack, scan    | `backbone/in_torch`         | `backbone/node`           |             | `test_compiled_scan` |
| block stack, step    | module by module            | `backbone/step_loops`     |             | `test_compiled_step` |
| whole action         | module by module            | `backbone/act_loops`      |             | `test_compiled_act`  |
| PPO's action         | module by module            | `ppo/act`                 |             | `test_compiled_act`  |
| PPO's update         | `PPO.train`                 | `ppo/update`              |             | `test_compiled_act`  |

`guard` decides where a compiled kernel may run, `differentiable` has the recurrences for second and forward-mode
derivatives, `matmul` chooses between torch and oneDNN, and `jit/` compiles, with functions that kernels share.
"""
