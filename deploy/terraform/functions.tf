# The predictor, and the event function with what calls it.
resource "google_cloud_run_v2_service" "predictor" {
  name                = "mbta-predictor"
  location            = var.region
  deletion_protection = false

  template {
    service_account = google_service_account.of["predictor"].email
    scaling {
      max_instance_count = var.predictor_instances
    }
    containers {
      image = local.serving
      resources {
        limits = { cpu = "1", memory = "1Gi" }
      }
      env {
        name  = "MBTA_MODEL"
        value = "gs://${google_storage_bucket.models.name}"
      }
      dynamic "env" {
        for_each = { for name, value in var.settings : name => value if contains(local.predictor_settings, name) }
        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }

  depends_on = [google_storage_bucket_iam_member.models]
}

resource "google_cloud_run_v2_service" "events" {
  name                = "mbta-events"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_INTERNAL_ONLY"
  deletion_protection = false

  template {
    service_account = google_service_account.of["events"].email
    scaling {
      max_instance_count = 1
    }
    containers {
      image = local.serving
      resources {
        limits = { cpu = "1", memory = "512Mi" }
      }
      dynamic "env" {
        for_each = merge(
          { for name, value in var.settings : name => value if startswith(name, "BIGQUERY_UPSTREAM_") },
          {
            FUNCTION_TARGET       = "on_upstream_change"
            MBTA_DAGSTER_URL      = google_cloud_run_v2_service.webserver["reports"].uri
            MBTA_DAGSTER_AUDIENCE = google_cloud_run_v2_service.webserver["reports"].uri
            MBTA_EVENT_CHECK      = "cloud-run"
            MBTA_EVENT_SENDER     = google_service_account.of["trigger"].email
          },
        )
        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }
}

resource "google_eventarc_trigger" "objects" {
  count           = var.upstream_bucket == null ? 0 : 1
  name            = "mbta-upstream-objects"
  location        = var.upstream_bucket_location
  service_account = google_service_account.of["trigger"].email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.storage.object.v1.finalized"
  }
  matching_criteria {
    attribute = "bucket"
    value     = var.upstream_bucket
  }
  destination {
    cloud_run_service {
      service = google_cloud_run_v2_service.events.name
      region  = var.region
    }
  }

  depends_on = [google_project_iam_member.account, google_project_iam_member.storage_agent]
}

# Loads into BigQuery write to the audit log by themselves; nothing has to be switched on for them.
resource "google_eventarc_trigger" "tables" {
  count           = var.upstream_tables ? 1 : 0
  name            = "mbta-upstream-tables"
  location        = "global" # wherever the tables are
  service_account = google_service_account.of["trigger"].email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.audit.log.v1.written"
  }
  matching_criteria {
    attribute = "serviceName"
    value     = "bigquery.googleapis.com"
  }
  matching_criteria {
    attribute = "methodName"
    value     = "google.cloud.bigquery.v2.JobService.InsertJob"
  }
  destination {
    cloud_run_service {
      service = google_cloud_run_v2_service.events.name
      region  = var.region
    }
  }

  depends_on = [google_project_iam_member.account]
}
