output "registry" {
  description = "Where images are pushed to."
  value       = local.registry
}

output "live" {
  description = "The address of live predictions; null without them."
  value       = one(google_cloud_run_v2_service.live[*].uri)
}

output "predictor" {
  description = "The address of the predictor."
  value       = google_cloud_run_v2_service.predictor.uri
}
