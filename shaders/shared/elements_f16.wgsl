// Values held as f16.

enable f16;
alias elem = f16;
alias elem4 = vec4<f16>;
