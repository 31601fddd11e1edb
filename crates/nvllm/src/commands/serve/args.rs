//! The flags of `nvllm serve`: vLLM's names where vLLM has them.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use nvllm_engine::{LoadOptions, Tenant, ToolFormat};
use nvllm_serve::{
    Alias, ApiKeys, Defaults, ReasoningField, ReasoningParser, Scheduling, ServedOptions, ServerOptions,
    TlsFiles, Traces,
};
use serde_json::{Map, Value};

use super::vllm_flags::VllmFlags;
use crate::backends;
use crate::flags::{ModelArgs, number};

#[derive(Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  nvllm serve                                     the demo model on http://127.0.0.1:8000
  nvllm serve -m Qwen/Qwen3-0.6B --host 0.0.0.0   for other machines
  nvllm serve --config serve.toml                 flags from a file

  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

SIGTERM or Ctrl-C ends the server once its requests have ended; a second Ctrl-C ends it at once."
)]
pub(crate) struct Serve {
    /// The model, as vLLM has it: the same as --model.
    #[arg(value_name = "MODEL", conflicts_with = "model", value_parser = NonEmptyStringValueParser::new())]
    model_tag: Option<String>,
    #[command(flatten)]
    pub(super) address: AddressArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    served: ServedArgs,
    #[command(flatten)]
    capacity: CapacityArgs,
    #[command(flatten)]
    pub(super) logs: LogArgs,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) vllm_flags: VllmFlags,
}

#[derive(Args)]
#[command(next_help_heading = "Connections")]
pub(super) struct AddressArgs {
    /// The address to listen on; 0.0.0.0 for all.
    #[arg(long, default_value = "127.0.0.1", value_parser = NonEmptyStringValueParser::new())]
    pub(super) host: String,
    /// The port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = 8000)]
    pub(super) port: u16,
    /// The certificate for HTTPS, in PEM, with those that vouch for it.
    #[arg(long, value_name = "FILE", requires = "ssl_keyfile")]
    ssl_certfile: Option<PathBuf>,
    /// The certificate's key, in PEM.
    #[arg(long, value_name = "FILE", requires = "ssl_certfile")]
    ssl_keyfile: Option<PathBuf>,
    /// Bytes of a request's body at most.
    #[arg(long, value_name = "BYTES", default_value = "32MiB", value_parser = number::bytes)]
    max_body_size: usize,
    /// Seconds that a client may take for a request's head, or do nothing between two requests.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    header_timeout: Duration,
    /// Seconds that a client may take for a request's body.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    body_timeout: Duration,
    /// Seconds that running requests have for their end when the server is told to end.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(super) shutdown_timeout: Duration,
    /// Flags from a TOML file, by the same names; those of the command line go first.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Access")]
pub(super) struct AccessArgs {
    /// Ask clients for this key; may be given several times.
    #[arg(long, value_name = "KEY", num_args = 1.., value_parser = NonEmptyStringValueParser::new())]
    api_key: Vec<String>,
    /// Ask clients for one of the keys in this file, a line each: KEY, or NAME:KEY, whose requests
    /// are those of the tenant NAME. The file is read again when it changes; a tenant without a key
    /// leaves its part of the queue to the others.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Give a tenant this share of the tokens and of the queue while others wait too, relative to
    /// the other tenants; may be given several times [default: 1 for each name in the key file].
    #[arg(long, value_name = "NAME=WEIGHT", value_parser = tenant)]
    tenant: Vec<Tenant>,
    /// Origins of web pages that may call; * for all.
    #[arg(long, value_name = "ORIGIN", num_args = 1.., default_value = "*", value_parser = origins)]
    allowed_origins: Vec<Origins>,
}

#[derive(Args)]
#[command(next_help_heading = "Answers")]
pub(super) struct ServedArgs {
    /// Names that requests may call the model by; answers carry the first [default: its hub id, or
    /// the last part of its path without .gguf].
    #[arg(long, value_name = "NAME", num_args = 1..)]
    served_model_name: Vec<String>,
    /// A chat template in place of the model's own: a file.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Arguments of the chat template where a request gives none, as in {"enable_thinking": false}.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    default_chat_template_kwargs: Option<Kwargs>,
    /// Where sampling parameters come from that a request does not give.
    #[arg(long, value_enum, default_value = "auto")]
    generation_config: GenerationConfig,
    /// Take a request that spells out temperature 1, top_p 1, top_k -1, min_p 0 and
    /// repetition_penalty 1 for one that gives none of them: some routers fill these in.
    #[arg(long)]
    neutral_sampling_is_absent: bool,
    /// Take the name of a special token in a message for that token, and not for text.
    #[arg(long)]
    parse_special_tokens: bool,
    /// How thoughts are told apart from answers [default: by <think> and </think>, where the model
    /// knows them].
    #[arg(long, value_name = "NAME", value_parser = reasoning_parser)]
    reasoning_parser: Option<ReasoningParser>,
    /// The field of a chat's answer that has the thoughts.
    #[arg(long, value_enum, default_value = "reasoning")]
    reasoning_field: ReasoningFieldArg,
    /// How the model writes calls of tools: hermes, qwen3_coder, llama3_json or mistral [default:
    /// as its chat template does].
    #[arg(long, value_name = "NAME", value_parser = ToolFormat::from_str)]
    tool_call_parser: Option<ToolFormat>,
    /// Serve /v1/embeddings too; takes memory for a second program of the model.
    #[arg(long)]
    embeddings: bool,
    /// Serve every metric under the name that it has in vLLM as well.
    #[arg(long, value_name = "NAME", value_parser = ["vllm"])]
    metrics_alias: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Capacity")]
pub(super) struct CapacityArgs {
    /// Sequences that run at once [default: as many as suit the backend].
    #[arg(long, value_name = "N", value_parser = number::positive)]
    max_num_seqs: Option<usize>,
    /// Requests that may wait; the next is refused with status 429.
    #[arg(long, value_name = "N", default_value_t = LoadOptions::default().max_queued_requests, value_parser = number::positive)]
    max_queued_requests: usize,
    /// Whether requests may say by their `priority` who runs before whom; if not, such a request is
    /// refused.
    #[arg(long, value_enum, default_value = "fcfs")]
    scheduling_policy: SchedulingPolicy,
    /// Share of the device's memory that the model may take, above 0 and up to 1 [default: the
    /// backend's].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    gpu_memory_utilization: Option<f64>,
    /// Let a prompt take over what the KV cache still holds of its beginning, as by default.
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    enable_prefix_caching: bool,
    /// Compute every prompt from its first token on.
    #[arg(long)]
    no_enable_prefix_caching: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Messages")]
pub(super) struct LogArgs {
    /// How messages and the line of each request are written to standard error.
    #[arg(long, value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Log the bodies of requests, with the prompts in them.
    #[arg(long)]
    log_prompts: bool,
    /// Send a span of each request to this OpenTelemetry collector, by OTLP over HTTP (JSON), as in
    /// http://localhost:4318.
    #[arg(long, value_name = "URL")]
    otlp_traces_endpoint: Option<String>,
    /// Write no line for each request.
    #[arg(long, visible_alias = "no-enable-log-requests")]
    disable_log_requests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchedulingPolicy {
    /// Who came first.
    Fcfs,
    /// Who has the smaller priority.
    Priority,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GenerationConfig {
    /// The model's generation_config.json, then OpenAI's defaults.
    Auto,
    /// OpenAI's defaults.
    Vllm,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum ReasoningFieldArg {
    /// As vLLM has it.
    Reasoning,
    /// For clients that know no other.
    ReasoningContent,
    /// Both, each with all of it.
    Both,
}

#[derive(Clone)]
struct Kwargs(Map<String, Value>);

#[derive(Clone)]
struct Origins(Vec<String>);

impl Serve {
    /// The model's name, if one is given.
    pub(super) fn model_name(&self) -> Option<&str> {
        self.model_tag.as_deref().or(self.model.model.as_deref())
    }

    /// Names of the tenants that are given with their weights.
    pub(super) fn given_tenants(&self) -> Vec<String> {
        self.access.tenant.iter().map(|tenant| tenant.name.clone()).collect()
    }

    /// How the server treats its clients. Errors if the key file cannot be read.
    pub(super) fn server_options(&self) -> Result<ServerOptions> {
        let (address, access) = (&self.address, &self.access);
        let keys = ApiKeys::new(&access.api_key, access.api_key_file.as_deref()).with_context(|| {
            let file = access.api_key_file.clone().unwrap_or_default();
            format!("--api-key-file {} cannot be read", file.display())
        })?;
        let files = address.ssl_certfile.clone().zip(address.ssl_keyfile.clone());
        Ok(ServerOptions {
            api_keys: Arc::new(keys),
            allowed_origins: access.allowed_origins.iter().flat_map(|origins| origins.0.clone()).collect(),
            tls: files.map(|(certificates, key)| TlsFiles { certificates, key }),
            max_body_size: address.max_body_size,
            header_timeout: address.header_timeout,
            body_timeout: address.body_timeout,
            log_requests: !self.logs.disable_log_requests,
            log_prompts: self.logs.log_prompts,
            traces: self.logs.otlp_traces_endpoint.as_deref().map(Traces::new).transpose()?.map(Arc::new),
            ..ServerOptions::default()
        })
    }

    /// `https` if there is a certificate.
    pub(super) fn scheme(&self) -> &'static str {
        if self.address.ssl_certfile.is_some() { "https" } else { "http" }
    }

    /// How the model is presented. Errors if the chat template cannot be read.
    pub(super) fn served_options(&self) -> Result<ServedOptions> {
        let served = &self.served;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| format!("--chat-template {} cannot be read", path.display()))
        };
        Ok(ServedOptions {
            names: served.served_model_name.clone(),
            defaults: match served.generation_config {
                GenerationConfig::Auto => Defaults::Model,
                GenerationConfig::Vllm => Defaults::OpenAi,
            },
            neutral_is_absent: served.neutral_sampling_is_absent,
            parse_special_tokens: served.parse_special_tokens,
            scheduling: match self.capacity.scheduling_policy {
                SchedulingPolicy::Fcfs => Scheduling::Fcfs,
                SchedulingPolicy::Priority => Scheduling::Priority,
            },
            chat_template_kwargs: served
                .default_chat_template_kwargs
                .as_ref()
                .map(|kwargs| kwargs.0.clone())
                .unwrap_or_default(),
            chat_template: served.chat_template.as_ref().map(read).transpose()?,
            embeddings: served.embeddings,
            reasoning_parser: served.reasoning_parser.unwrap_or_default(),
            reasoning_field: match served.reasoning_field {
                ReasoningFieldArg::Reasoning => ReasoningField::Reasoning,
                ReasoningFieldArg::ReasoningContent => ReasoningField::ReasoningContent,
                ReasoningFieldArg::Both => ReasoningField::Both,
            },
            tool_call_parser: served.tool_call_parser,
            metrics_alias: served.metrics_alias.as_ref().map_or(Alias::Nothing, |_| Alias::Vllm),
        })
    }

    /// How the model is loaded for clients with these `names` on their keys.
    pub(super) fn load_options(&self, names: &[String]) -> LoadOptions {
        let capacity = &self.capacity;
        let options = backends::load_options(&self.model.load, capacity.max_num_seqs);
        let own = LoadOptions::default();
        let activations = match self.vllm_flags.dtype() {
            Some(dtype) if options.activations.is_none() => Some(dtype),
            _ => options.activations,
        };
        LoadOptions {
            activations,
            // A server's queue is filled by others.
            max_queued_requests: capacity.max_queued_requests,
            max_queued_prompt_tokens: own.max_queued_prompt_tokens,
            gpu_memory_utilization: capacity.gpu_memory_utilization,
            enable_prefix_caching: capacity.enable_prefix_caching || !capacity.no_enable_prefix_caching,
            tenants: tenants(&self.access.tenant, names),
            embeddings: self.served.embeddings,
            ..options
        }
    }
}

/// The tenant of those without a name first, then those that are given, then the other names.
fn tenants(given: &[Tenant], names: &[String]) -> Vec<Tenant> {
    let mut tenants = vec![Tenant::default()];
    let named = names.iter().map(|name| Tenant { name: name.clone(), weight: 1 });
    for tenant in given.iter().cloned().chain(named) {
        // The weight of the default tenant may be given too.
        let default = Tenant::default();
        match tenants.iter().position(|known| known.name == tenant.name) {
            Some(at) if tenants[at] == default => tenants[at] = tenant,
            Some(_) if names.contains(&tenant.name) => {}
            // One that is given twice is the engine's to refuse.
            _ => tenants.push(tenant),
        }
    }
    tenants
}

fn tenant(text: &str) -> Result<Tenant, String> {
    let parsed = text.split_once('=').and_then(|(name, weight)| {
        Some(Tenant { name: name.to_owned(), weight: weight.parse().ok().filter(|weight| *weight > 0)? })
    });
    parsed.filter(|tenant| !tenant.name.is_empty()).ok_or_else(|| "use NAME=WEIGHT, as in team-a=3".into())
}

/// vLLM's names of the parsers whose marks are `<think>` and `</think>`.
fn reasoning_parser(name: &str) -> Result<ReasoningParser, String> {
    match name {
        "none" => Ok(ReasoningParser::Off),
        "qwen3" | "deepseek_r1" | "glm45" => Ok(ReasoningParser::Think),
        _ => Err("use qwen3, deepseek_r1 or glm45 for thoughts between <think> and </think>, or none".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "give a share of memory above 0 and up to 1, as in 0.9".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds >= 0.0);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| "give seconds, as in 30 or 0.5".into())
}

fn json_object(text: &str) -> Result<Kwargs, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(Kwargs(object)),
        Ok(_) => Err("give a JSON object, as in {\"enable_thinking\": false}".into()),
        Err(e) => Err(format!("{e}; give a JSON object, as in {{\"enable_thinking\": false}}")),
    }
}

/// One origin, or vLLM's JSON list of them.
fn origins(text: &str) -> Result<Origins, String> {
    if !text.starts_with('[') {
        return Ok(Origins(vec![text.to_owned()]));
    }
    serde_json::from_str(text)
        .map(Origins)
        .map_err(|e| format!("{e}; give origins, as in https://example.org"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keys_are_tenants_of_weight_one_unless_given() {
        let of = |given: &[(&str, u32)], names: &[&str]| -> Vec<(String, u32)> {
            let given: Vec<_> =
                given.iter().map(|(name, weight)| Tenant { name: (*name).into(), weight: *weight }).collect();
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            tenants(&given, &names).into_iter().map(|tenant| (tenant.name, tenant.weight)).collect()
        };
        let list = |list: &[(&str, u32)]| -> Vec<(String, u32)> {
            list.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
        };
        assert_eq!(of(&[], &[]), list(&[("default", 1)]));
        assert_eq!(of(&[("a", 3)], &["a", "b"]), list(&[("default", 1), ("a", 3), ("b", 1)]));
        assert_eq!(of(&[("default", 5)], &["default"]), list(&[("default", 5)]));
        // Refused by the engine.
        assert_eq!(of(&[("a", 3), ("a", 2)], &[]), list(&[("default", 1), ("a", 3), ("a", 2)]));
    }
}
