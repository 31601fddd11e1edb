//! `GET /v1/models`.

use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::error::ApiError;
use crate::extract::InPath;
use crate::openapi::Errors;
use crate::wire::models::{ModelCard, ModelList};

fn card(app: &App, name: &str) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: app.created,
        owned_by: "nvllm",
        root: app.served.root.clone(),
        parent: None,
        max_model_len: app.max_model_len(),
    }
}

/// The models that are served.
#[utoipa::path(
    get, path = "/v1/models", operation_id = "list_models", tag = "server",
    responses((status = 200, description = "One model, by all of its names.", body = ModelList), Errors),
)]
pub(crate) async fn list(State(app): State<App>) -> Json<ModelList> {
    let data = app.served.names.iter().map(|name| card(&app, name)).collect();
    Json(ModelList { object: "list", data })
}

/// One of the models that are served.
#[utoipa::path(
    get, path = "/v1/models/{*model}", operation_id = "get_model", tag = "server",
    params(("model" = String, Path, description = "A name of the model; it may have slashes.")),
    responses((status = 200, description = "The model.", body = ModelCard), Errors),
)]
pub(crate) async fn get(State(app): State<App>, InPath(model): InPath) -> Result<Json<ModelCard>, ApiError> {
    app.served.check_name(Some(&model))?;
    Ok(Json(card(&app, &model)))
}
